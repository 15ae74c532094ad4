//! The names of types in scripts.

/// Returns the script's name of a Rust type.
pub fn script_type(name: &str) -> &str {
    match name.trim_start_matches("&mut ") {
        "ImmutableString" | "String" | "str" | "&str" => "string",
        "i64" | "INT" => "int",
        "f64" | "FLOAT" => "float",
        "Array" => "array",
        "Map" => "map",
        "FnPtr" => "closure",
        "Dynamic" => "?",
        other => other,
    }
}
