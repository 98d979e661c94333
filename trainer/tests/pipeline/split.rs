//! How layers are dealt out to stages.

use dream_trainer::pipeline::split_layers;

#[test]
fn layers_are_dealt_out_by_the_rule_of_the_field() {
    // (layers, stages, parts) with one layer's worth for the embedding and one for the head.
    let rows: [(usize, usize, &[usize]); 9] = [
        (32, 1, &[32]),
        (32, 2, &[16, 16]),
        (32, 4, &[8, 9, 8, 7]),
        (32, 8, &[4, 5, 4, 4, 4, 4, 4, 3]),
        (126, 8, &[15, 16, 16, 16, 16, 16, 16, 15]),
        (126, 16, &[7, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 8, 7]),
        (6, 4, &[1, 2, 2, 1]),
        (6, 8, &[0, 1, 1, 1, 1, 1, 1, 0]),
        (2, 2, &[1, 1]),
    ];
    for (layers, stages, parts) in rows {
        assert_eq!(split_layers(layers, stages, 1, 1).as_deref(), Ok(parts), "{layers} {stages}");
    }
}

#[test]
fn impossible_cuts_are_refused_with_numbers() {
    let message = |layers, stages, first, last| {
        split_layers(layers, stages, first, last).unwrap_err().to_string()
    };
    assert_eq!(message(6, 9, 1, 1), "6 layers cannot be cut into 9 stages: at most 8");
    assert_eq!(message(4, 0, 1, 1), "4 layers cannot be cut into 0 stages: at most 6");
    assert_eq!(
        message(6, 4, 1, 3),
        "4 stages of 6 layers leave 2 for stage 3, fewer than the 3 that its other parts count as: \
         take fewer stages or a smaller `last_stage_less_layers`"
    );
}
