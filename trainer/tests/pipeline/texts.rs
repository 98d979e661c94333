//! What people read: the order of the course's example, pictures, messages.

use dream_trainer::pipeline::{Costs, Schedule, ScheduleKind, Timeline};

fn picture(kind: ScheduleKind, ranks: usize, stages: usize, microbatches: usize) -> String {
    let schedule = kind.schedule(ranks, stages, microbatches).unwrap();
    Timeline::of(&schedule, &Costs::default()).unwrap().to_text(&schedule)
}

#[test]
fn one_forward_one_backward_is_the_order_of_the_books() {
    let schedule = ScheduleKind::OneForwardOneBackward.schedule(2, 1, 4).unwrap();
    let row = |rank: usize| {
        let actions = schedule.ranks()[rank].iter();
        actions.map(|action| action.to_string()[1..].to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row(0), "F0 F1 B0 F2 B1 F3 B2 B3");
    assert_eq!(row(1), "F0 B0 F1 B1 F2 B2 F3 B3");
}

#[test]
fn timelines_are_drawn() {
    let pictures = [
        picture(ScheduleKind::GPipe, 2, 1, 3),
        picture(ScheduleKind::OneForwardOneBackward, 4, 1, 6),
        picture(ScheduleKind::Interleaved1F1B, 2, 2, 4),
        picture(ScheduleKind::LoopedBfs, 2, 2, 3),
        picture(ScheduleKind::ZeroBubble, 4, 1, 6),
        picture(ScheduleKind::ZeroBubbleV, 2, 2, 4),
    ];
    insta::assert_snapshot!(pictures.join("\n"));
}

#[test]
fn a_csv_has_a_row_a_rank_and_a_column_a_step() {
    let schedule = ScheduleKind::OneForwardOneBackward.schedule(2, 1, 2).unwrap();
    assert_eq!(schedule.to_csv(), "0F0,0F1,,0B0,,0B1\n,1F0,1B0,1F1,1B1,\n");
}

#[test]
fn communication_is_named_as_in_the_field() {
    let schedule = ScheduleKind::GPipe.schedule(2, 1, 1).unwrap();
    let rows = schedule.with_sharding();
    let text = |row: usize| rows[row].iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!(text(0), "0UNSHARD 0F0 0SEND_F0 0RECV_B0 0B0 0REDUCE_GRAD 0RESHARD");
    assert_eq!(text(1), "1RECV_F0 1UNSHARD 1F0 1B0 1REDUCE_GRAD 1RESHARD 1SEND_B0");
}

#[test]
fn what_cannot_be_scheduled_is_refused_with_numbers() {
    let made = |kind: ScheduleKind, ranks, stages, microbatches| {
        kind.schedule(ranks, stages, microbatches).unwrap_err().to_string()
    };
    let messages = [
        made(ScheduleKind::GPipe, 0, 1, 4),
        made(ScheduleKind::GPipe, usize::MAX, 1, usize::MAX),
        made(ScheduleKind::GPipe, 2, 2, 4),
        made(ScheduleKind::Interleaved1F1B, 4, 1, 8),
        made(ScheduleKind::ZeroBubbleV, 4, 3, 8),
        made(ScheduleKind::Interleaved1F1B, 4, 2, 3),
        made(ScheduleKind::Interleaved1F1B, 4, 2, 9),
        "2f2b".parse::<ScheduleKind>().unwrap_err().to_string(),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}

#[test]
fn files_that_are_no_schedule_are_refused_with_the_place() {
    let read = |text: &str| {
        let error = Schedule::from_csv(text).unwrap_err();
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        format!("{error}{}", source.unwrap_or_default())
    };
    let messages = [
        read(""),
        read("0F0,0B0\n1F0,1X0\n"),
        read("0F0,0SEND_F0,0B0\n"),
        read("0F0,0B0\n1F0,1B0,0F1\n"),
        read("0F0,0B0\n2F0,2B0\n"),
        read("0F0,0F0,0B0\n"),
        read("0F0,0F1,0B0\n"),
        read("0F0,0I0\n"),
        read("0F0,0I0,0W0,0B0\n"),
        read("0B0,0F0\n"),
        read("0F0,0B0\n1B0,1F0\n"),
        read("0F4294967295,0B0\n"),
        read("4294967296F0\n"),
    ];
    insta::assert_snapshot!(messages.join("\n"));
}
