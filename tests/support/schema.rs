//! The description of the control socket, and whether values are as its schemas say: those words of JSON Schema that it uses, and no others.

#![allow(dead_code, unreachable_pub)]

use serde_json::Value;

/// `openapi.json`.
pub struct Description(pub Value);

/// Words that mean nothing to a check.
const NOTES: [&str; 2] = ["description", "format"];

impl Description {
    /// As it is in the repository.
    pub fn load() -> Self {
        Self(serde_json::from_str(include_str!("../../src/control/openapi.json")).unwrap())
    }

    /// Every method of every path, as `GET /v1/status`, sorted.
    pub fn operations(&self) -> Vec<String> {
        let methods = |(path, item): (&String, &Value)| {
            item.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())).collect::<Vec<_>>()
        };
        let mut all: Vec<String> = self.0["paths"].as_object().unwrap().iter().flat_map(methods).collect();
        all.sort();
        all
    }

    /// The names that a path's query may have.
    pub fn query(&self, (method, path): (&str, &str)) -> Vec<&str> {
        let parameters = self.0["paths"][path][method.to_lowercase()]["parameters"].as_array();
        let in_query = parameters.into_iter().flatten().filter(|parameter| parameter["in"] == "query");
        in_query.map(|parameter| parameter["name"].as_str().unwrap()).collect()
    }

    /// What is wrong with an answer of this status.
    pub fn answer(&self, (method, path): (&str, &str), status: u16, body: &Value) -> Result<(), String> {
        let responses = &self.0["paths"][path][method.to_lowercase()]["responses"];
        let response = responses.get(status.to_string()).unwrap_or(&responses["default"]);
        let schema = response.pointer("/content/application~1json/schema").ok_or(format!("{method} {path} is not described"))?;
        self.check(schema, body, path)
    }

    /// What is wrong with a request's body.
    pub fn body(&self, (method, path): (&str, &str), body: &Value) -> Result<(), String> {
        let request = &self.0["paths"][path][method.to_lowercase()]["requestBody"];
        let schema = request.pointer("/content/application~1json/schema").ok_or(format!("{method} {path} has no body"))?;
        self.check(schema, body, path)
    }

    /// What is wrong with `value`, at `at`.
    pub fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        for (word, rule) in schema.as_object().unwrap() {
            let good = match word.as_str() {
                "$ref" => {
                    let place = rule.as_str().unwrap().strip_prefix('#').unwrap();
                    let named = self.0.pointer(place).ok_or(format!("{at}: there is no {place}"))?;
                    self.check(named, value, at)?;
                    true
                }
                "anyOf" => rule.as_array().unwrap().iter().any(|one| self.check(one, value, at).is_ok()),
                "type" => match rule {
                    Value::Array(types) => types.iter().any(|name| is_a(name, value)),
                    name => is_a(name, value),
                },
                "enum" => rule.as_array().unwrap().contains(value),
                "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
                "properties" => {
                    for (name, schema) in rule.as_object().unwrap() {
                        if let Some(value) = value.get(name) {
                            self.check(schema, value, &format!("{at}.{name}"))?;
                        }
                    }
                    true
                }
                "required" => rule.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some()),
                "additionalProperties" => {
                    let known = schema.get("properties").and_then(Value::as_object);
                    for (name, value) in value.as_object().into_iter().flatten() {
                        if known.is_some_and(|known| known.contains_key(name)) {
                            continue;
                        }
                        match rule {
                            Value::Bool(allowed) if *allowed => {}
                            Value::Bool(_) => return Err(format!("{at}.{name} is not described")),
                            schema => self.check(schema, value, &format!("{at}.{name}"))?,
                        }
                    }
                    true
                }
                "items" => {
                    for (n, value) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, value, &format!("{at}[{n}]"))?;
                    }
                    true
                }
                note if NOTES.contains(&note) => true,
                other => return Err(format!("{at}: the check does not know {other:?}")),
            };
            if !good {
                return Err(format!("{at}: {word} {rule} does not hold for {value}"));
            }
        }
        Ok(())
    }
}

fn is_a(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("a type {other:?}"),
    }
}
