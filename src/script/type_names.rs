//! The names of types in scripts.

/// Returns the script's name of a type that the engine or Rust names.
pub fn script_type(name: &str) -> &str {
    match name.strip_prefix("&mut ").unwrap_or(name) {
        "ImmutableString" | "String" | "str" | "&str" | "&str | ImmutableString | String" => {
            "string"
        }
        "i64" | "INT" => "int",
        "f64" | "FLOAT" => "float",
        "Array" => "array",
        "FnPtr" | "Fn" => "closure",
        "Dynamic" | "RhaiResult" | "" => "?",
        "()" => "nothing",
        // Aliases tell the linter the keys of a map, and the argument of a closure.
        other if other.ends_with("Map") => "map",
        other if other.ends_with("Closure") => "closure",
        other => other,
    }
}
