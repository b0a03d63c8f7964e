//! [`Registry`]: the backends a program has. A plain value: filled by hand, or from what is linked in.

use crate::backend::{Backend, BackendError, Plugin};
use std::collections::BTreeMap;

/// Backends by name.
#[derive(Debug, Default)]
pub struct Registry(BTreeMap<&'static str, &'static dyn Backend>);

impl Registry {
    /// Every backend that a crate of this program registered. A crate that no code names is not linked: write
    /// `use lowbit_xnnpack as _;`.
    ///
    /// # Errors
    /// When two backends have one name.
    pub fn linked() -> Result<Self, BackendError> {
        let mut r = Self::default();
        for p in inventory::iter::<Plugin> {
            r.add(p.0)?;
        }
        Ok(r)
    }

    /// Adds a backend.
    ///
    /// # Errors
    /// When its name is taken.
    pub fn add(&mut self, backend: &'static dyn Backend) -> Result<&mut Self, BackendError> {
        match self.0.insert(backend.name(), backend) {
            None => Ok(self),
            Some(first) => Err(BackendError::Duplicate(first.name())),
        }
    }

    /// The backend of this name.
    ///
    /// # Errors
    /// [`BackendError::NotLinked`] lists those there are, and says what to do.
    pub fn get(&self, name: &str) -> Result<&'static dyn Backend, BackendError> {
        self.0.get(name).copied().ok_or_else(|| BackendError::NotLinked {
            name: name.into(),
            linked: self.0.keys().copied().collect(),
        })
    }

    /// All backends, by name.
    pub fn iter(&self) -> impl Iterator<Item = &'static dyn Backend> + '_ {
        self.0.values().copied()
    }
}
