//! `lowbit backends`: what is linked into this binary.

use crate::args::Backends;
use crate::error::CliError;
use lowbit_core::Registry;

pub fn run(args: &Backends) -> Result<(), CliError> {
    let registry = Registry::linked()?;
    if args.json {
        let list: Vec<_> = registry
            .iter()
            .map(|b| {
                let recipes: Vec<_> =
                    b.recipes().iter().map(|r| serde_json::json!({"name": r.name, "help": r.help})).collect();
                serde_json::json!({"name": b.name(), "version": b.version(), "recipes": recipes})
            })
            .collect();
        say!("{:#}", serde_json::Value::Array(list));
        return Ok(());
    }
    for b in registry.iter() {
        say!("{} {}", b.name(), b.version());
        for (i, r) in b.recipes().iter().enumerate() {
            say!("  {:<32} {}{}", r.name, r.help, if i == 0 { " (default)" } else { "" });
        }
    }
    Ok(())
}
