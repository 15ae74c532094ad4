//! Tests of the functions that replace unbounded ones of the engine. They have the same results, and
//! pass on the errors of closures.

use crate::support::ledger::{demo_command, error_text};

#[test]
fn bounded_functions_behave_like_the_functions_of_the_engine() {
    let script = "
        let t = \"hello\"; t.replace(\"l\", \"L\"); print(t); t.replace('L', \"(l)\"); print(t);
        t.replace(\"(l)\", '*'); print(t); t.replace('*', 'l'); print(t); t.replace(\"\", \"-\"); print(t);
        let t = \"ab\"; t.pad(1, \"xy\"); t.pad(5, \"xy\"); print(t); t.pad(7, \"\"); print(t); t.pad(-1, \"z\"); print(t);
        let a = [1]; a.pad(3, \"x\"); print(a); a.pad(2, 9); print(a.len);
        let n = [3, 1, 2]; n.sort(|x, y| x - y); print(n); n.sort(|x, y| x > y); print(n);
        print(n.order(|x, y| x - y)); print(n); n.sort(); print(n);
        let d = [1, 1, 2, 2, 1]; d.dedup(|x, y| x == y); print(d);
        print(#{b: [1, ()], a: \"q\\\"\"}.to_json());
        exit(0);";
    let run = demo_command(1, script).run().expect_code(0);
    insta::assert_snapshot!(run.stdout, @r#"
    heLLo
    he(l)(l)o
    he**o
    hello
    -h-e-l-l-o-
    abxyx
    abxyx
    abxyx
    [1, "x", "x"]
    3
    [1, 2, 3]
    [3, 2, 1]
    [1, 2, 3]
    [3, 2, 1]
    [1, 2, 3]
    [1, 2, 1]
    {"a":"q\"","b":[1,null]}
    "#);
}

#[test]
fn error_in_a_comparison_closure_is_reported() {
    for (call, message) in [
        ("[2, 1].sort(|x, y| throw \"no order\")", "no order"),
        ("[2, 1].order_by(|x, y| throw \"no order\")", "no order"),
        ("[2, 1].dedup(|x, y| throw \"no order\")", "no order"),
        (
            "[2, 1].sort(|x, y| \"later\")",
            "`comparer` must be a closure that returns a whole number or a bool",
        ),
    ] {
        let run = demo_command(1, &format!("let a = 1;\n{call};"))
            .run()
            .expect_code(3);
        assert!(error_text(&run).contains(message), "{call}: {}", run.stderr);
        assert!(run.stderr.contains("mine.rhai:2:"), "{}", run.stderr);
    }
    // An inconsistent comparison gives some order and does not crash.
    let script = "let a = []; for n in 0..500 { a.push(n * 7919 % 500); } a.sort(|x, y| (x * y) % 3 - 1); print(a.len); exit(0);";
    assert_eq!(demo_command(1, script).run().expect_code(0).stdout, "500\n");
}

#[test]
fn self_referencing_closure_can_be_logged_and_thrown() {
    let script = "let f = (); f = || f; log_info(\"x\", #{f: f}); print(#{f: f}.to_json().len > 5); throw [f];";
    let run = demo_command(1, script).run().expect_code(3);
    assert_eq!(run.signal, None);
    assert!(
        error_text(&run).contains("the script threw: "),
        "{}",
        run.stderr
    );
}
