//! What a configuration may declare, how it resolves, and what is said when it does not.

use dream_trainer::mesh::{Axis, Degree, Degrees, DeviceMesh, MeshError, MeshOrder};
use proptest::prelude::*;

use crate::{any_mesh, degrees, mesh};

proptest! {
    #[test]
    fn an_auto_degree_takes_exactly_what_is_left(mesh in any_mesh(), auto in 0_usize..5) {
        let mut declared = Axis::ALL.map(|axis| Degree::Fixed(mesh.size(axis)));
        declared[auto] = Degree::Auto;
        let resolved = degrees(declared).resolve(mesh.world_size(), mesh.order());
        prop_assert_eq!(resolved, Ok(mesh));
    }

    #[test]
    fn hints_name_degrees_that_really_fit(
        sizes in prop::array::uniform5(1_usize..7),
        world_size in 1_usize..100,
        auto in prop::option::of(0_usize..5),
    ) {
        let mut declared = sizes.map(Degree::Fixed);
        if let Some(auto) = auto {
            declared[auto] = Degree::Auto;
        }
        let Err(error) = degrees(declared).resolve(world_size, MeshOrder::default()) else {
            return Ok(());
        };
        let hint = error.hint().expect("a product that does not fit has a hint");
        let (_, choices) = hint.split_once(": ").unwrap();
        for choice in choices.split(", ") {
            let (mut declared, mut world_size) = (declared, world_size);
            let (what, value) = choice.rsplit_once(' ').unwrap();
            let value: usize = value.parse().unwrap();
            match what.strip_suffix(" =") {
                Some(axis) => {
                    let axis: Axis = axis.trim_matches('`').parse().unwrap();
                    declared[axis as usize] = Degree::Fixed(value);
                }
                None => world_size = value,
            }
            prop_assert!(degrees(declared).resolve(world_size, MeshOrder::default()).is_ok());
        }
    }
}

#[test]
fn degrees_that_do_not_make_up_the_world_are_refused_with_the_numbers() {
    use Degree::{Auto, Fixed};
    // (world size, [pp, dp_replicate, dp_shard, cp, tp], message)
    let rows = [
        (
            24,
            [Fixed(2), Fixed(1), Auto, Fixed(2), Fixed(4)],
            "product 16 of pp 2 x cp 2 x tp 4 does not divide world size 24, \
             so `auto` of `dp_shard` has no value",
        ),
        (
            24,
            [Fixed(2), Fixed(1), Fixed(3), Fixed(2), Fixed(4)],
            "product 48 of pp 2 x dp_shard 3 x cp 2 x tp 4 != world size 24",
        ),
        (
            8,
            [Fixed(1), Fixed(2), Fixed(3), Fixed(1), Fixed(2)],
            "product 12 of dp_replicate 2 x dp_shard 3 x tp 2 != world size 8",
        ),
        (2, [Fixed(1); 5], "product 1 of degrees of 1 != world size 2"),
        (
            4,
            [Fixed(1), Auto, Auto, Fixed(1), Fixed(1)],
            "degrees of `dp_replicate`, `dp_shard` are `auto` but at most one may be",
        ),
        (
            4,
            [Fixed(1), Fixed(1), Auto, Fixed(0), Fixed(1)],
            "degree of `cp` is 0 but must be an integer of at least 1 or `auto`",
        ),
        (0, [Fixed(1); 5], "world size is 0 but must be at least 1"),
        (
            4,
            [Fixed(1 << 40), Fixed(1), Auto, Fixed(1), Fixed(1 << 40)],
            "product of pp 1099511627776 x tp 1099511627776 is larger than the largest world size \
             18446744073709551615",
        ),
    ];
    for (world_size, declared, message) in rows {
        let error = degrees(declared).resolve(world_size, MeshOrder::default()).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn errors_suggest_what_fits() {
    let mismatch = degrees([2, 1, 3, 2, 4].map(Degree::Fixed)).resolve(24, MeshOrder::default());
    let indivisible = |tp: usize| {
        let degrees = Degrees { tp: tp.into(), dp_shard: Degree::Auto, ..Degrees::default() };
        degrees.resolve(24, MeshOrder::default()).unwrap_err()
    };
    let rows = [
        (
            mismatch.unwrap_err(),
            "nearest that fit, one at a time: `pp` = 1, `cp` = 1, `tp` = 2, world size 48",
        ),
        (
            indivisible(16),
            "nearest that fit, one at a time: `tp` = 12, world size 16, world size 32",
        ),
        (
            indivisible(11),
            "nearest that fit, one at a time: `tp` = 12, world size 22, world size 33",
        ),
        ("dp_shrad".parse::<Axis>().unwrap_err(), "did you mean `dp_shard`?"),
        (
            "experts".parse::<Axis>().unwrap_err(),
            "the axes are `pp`, `dp_replicate`, `dp_shard`, `cp`, `tp`",
        ),
    ];
    for (error, hint) in rows {
        assert_eq!(error.hint().as_deref(), Some(hint), "{error}");
    }
}

#[test]
fn only_the_two_orders_are_accepted() {
    for (text, order) in [
        ("pp,dp,cp,tp", MeshOrder::PpOutermost),
        ("dp, pp, cp, tp", MeshOrder::DpOutermost),
        ("pp,dp_replicate,dp_shard,cp,tp", MeshOrder::PpOutermost),
    ] {
        assert_eq!(text.parse(), Ok(order));
        let names: Vec<String> = text.split(',').map(str::to_owned).collect();
        assert_eq!(MeshOrder::try_from(names.as_slice()), Ok(order));
        assert_eq!(serde_json::from_value(serde_json::json!(names)).ok(), Some(order));
        assert_eq!(serde_json::from_value(serde_json::json!(text)).ok(), Some(order));
    }
    for text in ["pp,dp,tp,cp", "pp,cp,tp", "dp,dp,cp,tp", "pp,dp,cp,tp,tp", "pp,dp_shard,cp,tp"] {
        let error = text.parse::<MeshOrder>().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "mesh order `{text}` is not supported: it must be `pp,dp,cp,tp` or `dp,pp,cp,tp`, \
                 with `cp` and `tp` innermost"
            )
        );
    }
    let unknown = "pp,ddp,cp,tp".parse::<MeshOrder>();
    assert_eq!(unknown, Err(MeshError::UnknownAxis { name: "ddp".to_owned() }));
}

#[test]
fn degrees_read_as_a_number_or_auto() {
    let read = |text: &str| {
        serde_json::from_str::<Degree>(text).map_err(|error| error.to_string().replace('\\', ""))
    };
    assert_eq!(read("8"), Ok(Degree::Fixed(8)));
    assert_eq!(read("\"auto\""), Ok(Degree::Auto));
    for (text, found) in [
        ("0", "invalid value: integer `0`"),
        ("-2", "invalid value: integer `-2`"),
        ("\"all\"", "invalid value: string \"all\""),
        ("\"4\"", "invalid value: string \"4\""),
        ("2.5", "invalid type: floating point `2.5`"),
        ("true", "invalid type: boolean `true`"),
    ] {
        let message = read(text).unwrap_err();
        let expected = format!("{found}, expected an integer of at least 1 or \"auto\"");
        assert!(message.starts_with(&expected), "{message}");
    }
    assert_eq!("auto".parse(), Ok(Degree::Auto));
    assert_eq!("4".parse(), Ok(Degree::Fixed(4)));
    for text in ["0", "-1", "", "Auto", "1.0"] {
        let error = MeshError::InvalidDegree { text: text.to_owned() };
        assert_eq!(text.parse::<Degree>(), Err(error));
    }
}

#[test]
fn the_schema_of_a_degree_says_what_the_reader_accepts() {
    let schema = serde_json::to_value(schemars::schema_for!(Degree)).unwrap();
    let accepted = serde_json::json!([{ "type": "integer", "minimum": 1 }, { "const": "auto" }]);
    assert_eq!(schema["anyOf"], accepted);
    let schema = serde_json::to_value(schemars::schema_for!(MeshOrder)).unwrap();
    for listed in schema["enum"].as_array().unwrap() {
        assert!(serde_json::from_value::<MeshOrder>(listed.clone()).is_ok(), "{listed}");
    }
}

#[test]
fn a_stored_mesh_is_checked_when_read() {
    let stored = mesh([2, 1, 3, 2, 2], MeshOrder::DpOutermost);
    let text = serde_json::to_string(&stored).unwrap();
    let expected = r#"{"order":"dp,pp,cp,tp","pp":2,"dp_replicate":1,"dp_shard":3,"cp":2,"tp":2}"#;
    assert_eq!(text, expected);
    assert_eq!(serde_json::from_str::<DeviceMesh>(&text).unwrap(), stored);
    let damaged = [
        (r#""cp":2"#, r#""cp":0"#),
        ("dp,pp", "tp,pp"),
        (r#""pp":2"#, r#""pp":9999999999999999999"#),
    ];
    for (good, bad) in damaged {
        assert!(serde_json::from_str::<DeviceMesh>(&text.replacen(good, bad, 1)).is_err(), "{bad}");
    }
}
