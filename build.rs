//! Compiles the C function that runs before Rust's own start-up code; `src/closed_stdout.c` explains it.

fn main() {
    println!("cargo::rerun-if-changed=src/closed_stdout.c");
    let objects = cc::Build::new()
        .file("src/closed_stdout.c")
        .compile_intermediates();
    for object in objects {
        println!("cargo::rustc-link-arg-bins={}", object.display());
    }
}
