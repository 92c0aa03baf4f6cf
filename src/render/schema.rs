//! `graphs/plan.schema.json` against what is written. Knows the closed lists; ignores what a plan is about.

use jsonschema::Validator;
use serde_json::{Value, json};

use super::{Marks, json, sample};
use crate::{
    graph::{Kind, Part, Plan, Reason, Selection, State},
    types::LayerKind,
};

const TEXT: &str = include_str!("../../graphs/plan.schema.json");

fn schema() -> Validator {
    let schema: Value = serde_json::from_str(TEXT).unwrap();
    assert!(jsonschema::draft202012::meta::is_valid(&schema));
    jsonschema::draft202012::new(&schema).unwrap()
}

fn value(plan: &Plan) -> Value {
    serde_json::from_str(&json(plan, &Marks::default())).unwrap()
}

#[track_caller]
fn accept(schema: &Validator, plan: &Plan) {
    let errors: Vec<String> = schema.iter_errors(&value(plan)).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
}

#[test]
fn what_is_written_is_accepted() {
    let schema = schema();
    for plan in [
        sample::two_images(),
        sample::twice_the_same_layer(),
        sample::two_candidates(),
        sample::of_a_list(),
        Plan::default(),
    ] {
        accept(&schema, &plan);
    }
}

#[test]
fn every_value_of_every_closed_list_is_accepted() {
    let schema = schema();
    let mut plan = sample::two_candidates();
    plan.platform = Some("linux/amd64".to_owned());
    let tag = plan.images[0].tag;
    for reason in Reason::all() {
        plan.graph[tag].reason = reason;
        accept(&schema, &plan);
    }
    for state in State::ALL {
        plan.graph[tag].state = state;
        accept(&schema, &plan);
    }
    let finalize = plan.images[0].layers[0];
    for kind in LayerKind::ALL {
        plan.graph[finalize].layer_kind = Some(kind);
        accept(&schema, &plan);
    }
}

#[test]
fn the_lists_of_the_schema_are_ours_and_no_longer() {
    let schema: Value = serde_json::from_str(TEXT).unwrap();
    let list = |pointer: &str| -> Vec<String> {
        let list = schema.pointer(pointer).unwrap().as_array().unwrap();
        list.iter().map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(list("/$defs/kind/enum"), Kind::ALL.map(Kind::name));
    let mut states = State::ALL.map(State::name);
    let mut listed = list("/$defs/state/enum");
    states.sort();
    listed.sort();
    assert_eq!(listed, states);
    assert_eq!(
        list("/$defs/reason/enum"),
        Reason::all().map(|reason| reason.to_string()).collect::<Vec<_>>()
    );
    assert_eq!(list("/$defs/node/properties/storage/enum"), LayerKind::ALL.map(LayerKind::name));
    assert_eq!(Reason::all().count(), 6 + Part::CHANGES.len());
}

#[test]
fn every_field_is_described() {
    fn walk(value: &Value, path: &str, without: &mut Vec<String>) {
        if let Some(properties) = value.get("properties").and_then(Value::as_object) {
            for (name, field) in properties.iter().filter(|(_, field)| field.is_object()) {
                // A conditional narrows a field that is described elsewhere.
                let narrows = path.contains("/if") || path.contains("/then") || path.contains("/else");
                let described = field.get("description").or(field.get("$ref")).is_some();
                if !narrows && !described && !path.contains("/oneOf") {
                    without.push(format!("{path}/{name}"));
                }
            }
        }
        match value {
            Value::Object(map) => map.iter().for_each(|(key, v)| walk(v, &format!("{path}/{key}"), without)),
            Value::Array(list) => {
                list.iter().enumerate().for_each(|(at, v)| walk(v, &format!("{path}/{at}"), without))
            }
            _ => {}
        }
    }
    let mut without = Vec::new();
    walk(&serde_json::from_str(TEXT).unwrap(), "", &mut without);
    assert_eq!(without, [""; 0]);
}

#[test]
fn a_broken_plan_is_refused() {
    let schema = schema();
    let good = value(&Plan {
        untag: vec!["old".to_owned()],
        selections: vec![Selection { rule: "*".to_owned(), images: Vec::new() }],
        ..sample::two_candidates()
    });
    let place = |of: &str, is: &dyn Fn(&Value) -> bool| {
        let at = good[of].as_array().unwrap().iter().position(is).unwrap();
        format!("/{of}/{at}")
    };
    let node = |kind: &'static str| place("nodes", &move |node| node["kind"] == kind);
    let edge = |kind: &'static str| place("edges", &move |edge| edge["edge"] == kind);
    let (finalize, tag, fetch) = (node("finalize"), node("tag"), node("fetch"));
    for (parent, field, bad) in [
        (String::new(), "schema", json!(2)),
        (String::new(), "platform", json!(7)),
        (String::new(), "untag", json!([])),
        (String::new(), "untag", json!([7])),
        (String::new(), "selections", json!({})),
        ("/selections/0".into(), "rule", json!(7)),
        ("/selections/0".into(), "images", json!([0])),
        ("/images/0".into(), "platform", json!(["linux"])),
        ("/images/0".into(), "manifest", json!("sha512:00")),
        ("/images/0".into(), "layers", json!(["split-0000000000000000"])),
        ("/images/0".into(), "tag", json!(3)),
        (tag.clone(), "node", json!("dance-0000000000000000")),
        (tag.clone(), "kind", json!("dance")),
        (tag.clone(), "subject", json!({"song": "x"})),
        (tag.clone(), "subject", json!({"layer": "x"})),
        (tag.clone(), "key", json!("abc")),
        (tag.clone(), "state", json!("done")),
        (tag.clone(), "reason", json!("layer is new")),
        (tag.clone(), "reason", json!("key changed (weather)")),
        (tag.clone(), "reason", json!("shared with a:v1")),
        (tag.clone(), "storage", json!("tar")),
        (tag.clone(), "cost_bytes", json!(-1)),
        (tag.clone(), "dynamic", json!("no")),
        (tag.clone(), "wanted_by", json!([])),
        (finalize.clone(), "storage", json!("zip")),
        (edge("needs"), "edge", json!("wants")),
        (edge("needs"), "rank", json!(0)),
        (edge("needs"), "from", json!("nobody")),
        (edge("candidate"), "rank", json!("first")),
        ("/totals".into(), "fetch_bytes", json!(1.5)),
        ("/totals/nodes".into(), "dance", json!({})),
        ("/totals/nodes/fetch".into(), "done", json!(1)),
        ("/totals/layers".into(), "new", json!("many")),
    ] {
        let mut broken = good.clone();
        broken.pointer_mut(&parent).unwrap()[field] = bad.clone();
        assert!(!schema.is_valid(&broken), "{parent}/{field} = {bad}");
    }
    for (parent, field) in [
        (String::new(), "totals"),
        ("/images/0".into(), "reference"),
        ("/selections/0".into(), "images"),
        (finalize, "storage"),
        (fetch, "reason"),
        (edge("candidate"), "rank"),
    ] {
        let mut broken = good.clone();
        broken.pointer_mut(&parent).unwrap().as_object_mut().unwrap().remove(field).unwrap();
        assert!(!schema.is_valid(&broken), "without {parent}/{field}");
    }
    let mut newer = good;
    newer["nodes"][0]["since"] = json!("a later version");
    assert!(schema.is_valid(&newer), "fields may be added");
}
