//! `nn_module_stack` strings to [`ModuleStack`]s, each made once.

use lowbit_core::ir::{ModuleFrame, ModuleStack};
use std::collections::HashMap;
use std::sync::Arc;

/// The stacks seen so far, by their text in the file.
#[derive(Default)]
pub struct Modules<'a> {
    stacks: HashMap<&'a str, ModuleStack>,
    names: HashMap<&'a str, Arc<str>>,
}

impl<'a> Modules<'a> {
    /// The stack of a node. PyTorch writes `key,path,type` for each module, outermost first, with `;` between.
    pub fn stack(&mut self, text: Option<&'a str>) -> ModuleStack {
        let Some(text) = text else { return ModuleStack::default() };
        if let Some(s) = self.stacks.get(text) {
            return s.clone();
        }
        let mut frames = Vec::new();
        for frame in text.split(';') {
            // Nodes that export itself made carry a placeholder.
            if frame.starts_with("_empty_nn_module_stack") {
                continue;
            }
            let Some((path, type_name)) = frame.split_once(',').and_then(|(_, rest)| rest.rsplit_once(','))
            else {
                continue;
            };
            // The second call of a module is `path@1`.
            let path = path.rsplit_once('@').map_or(path, |(p, n)| if is_number(n) { p } else { path });
            frames.push(ModuleFrame { path: self.intern(path), type_name: self.intern(type_name) });
        }
        let stack = ModuleStack::new(frames);
        self.stacks.insert(text, stack.clone());
        stack
    }

    fn intern(&mut self, name: &'a str) -> Arc<str> {
        self.names.entry(name).or_insert_with(|| name.into()).clone()
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_read_and_shared() {
        let mut m = Modules::default();
        let text = "L__self__,,a.Net;L__self__f.0,f.0@2,torch.nn.modules.conv.Conv2d";
        let s = m.stack(Some(text));
        assert_eq!(s.path(), "f.0");
        assert_eq!(&*s.frames()[0].type_name, "a.Net");
        assert_eq!(s.frames()[0].path.as_ref(), "");
        assert!(std::ptr::eq(s.frames(), m.stack(Some(text)).frames()));
        let none = "_empty_nn_module_stack_from_metadata_hook,_empty_nn_module_stack_from_metadata_hook,x";
        assert_eq!(m.stack(Some(none)), ModuleStack::default());
        assert_eq!(m.stack(None), ModuleStack::default());
    }
}
