//! One descriptor of cuDNN's: made, given its attributes, then finished.

use std::ffi::c_void;

use super::library::{Library, Raw};
use super::names::{Attribute, Kind};

/// A descriptor, which is destroyed when this is dropped.
#[derive(Debug)]
pub(super) struct Descriptor {
    raw: Raw,
    kind: Kind,
    library: &'static Library,
}

// SAFETY: a descriptor belongs to no thread, and is changed only by its one owner.
unsafe impl Send for Descriptor {}
// SAFETY: through a shared reference a finished descriptor is only read.
unsafe impl Sync for Descriptor {}

impl Descriptor {
    pub(super) fn new(library: &'static Library, kind: Kind) -> Result<Self, String> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the place is written by the call.
        let status = unsafe { (library.create_descriptor)(kind.number, &raw mut raw) };
        library.check(status, "cudnnBackendCreateDescriptor", kind.name)?;
        Ok(Self { raw, kind, library })
    }

    pub(super) fn raw(&self) -> Raw {
        self.raw
    }

    pub(super) fn library(&self) -> &'static Library {
        self.library
    }

    /// Checks what a call about this descriptor returned.
    fn check(&self, status: i32, call: &str) -> Result<(), String> {
        self.library.check(status, call, self.kind.name)
    }

    /// Sets an attribute to values, which are copied.
    ///
    /// # Safety
    ///
    /// `T` is the C type of the attribute's values; pointers among them are live.
    unsafe fn set<T>(&self, attribute: Attribute, values: &[T]) -> Result<(), String> {
        let Attribute { number, kind } = attribute;
        let pointer = values.as_ptr().cast::<c_void>();
        // SAFETY: the values outlive the call; the rest is by the caller's word.
        let status = unsafe {
            (self.library.set_attribute)(self.raw, number, kind, values.len() as i64, pointer)
        };
        let call = format!("cudnnBackendSetAttribute {number}");
        self.check(status, &call)
    }

    pub(super) fn with_numbers(self, to: Attribute, values: &[i64]) -> Result<Self, String> {
        // SAFETY: callers pass attributes of 64-bit numbers.
        unsafe { self.set(to, values) }.map(|()| self)
    }

    /// Sets one of cuDNN's enumerations.
    pub(super) fn with_mode(self, attribute: Attribute, value: i32) -> Result<Self, String> {
        // SAFETY: callers pass attributes of enumerations, which are C integers.
        unsafe { self.set(attribute, &[value]) }.map(|()| self)
    }

    pub(super) fn with_flag(self, attribute: Attribute) -> Result<Self, String> {
        // SAFETY: callers pass attributes of booleans.
        unsafe { self.set(attribute, &[true]) }.map(|()| self)
    }

    /// Sets other descriptors, which are finished and outlive this one.
    pub(super) fn with(self, attribute: Attribute, others: &[&Self]) -> Result<Self, String> {
        let raw: Vec<Raw> = others.iter().map(|other| other.raw).collect();
        // SAFETY: callers pass attributes of descriptors.
        unsafe { self.set(attribute, &raw) }.map(|()| self)
    }

    /// Sets pointers or the library's handle.
    ///
    /// # Safety
    ///
    /// They are live as long as the descriptor is used, and the attribute is one of such values.
    pub(super) unsafe fn with_raw(self, to: Attribute, values: &[Raw]) -> Result<Self, String> {
        // SAFETY: by the caller's word.
        unsafe { self.set(to, values) }.map(|()| self)
    }

    #[cfg(test)]
    pub(super) fn with_text(self, attribute: Attribute, text: &str) -> Result<Self, String> {
        // SAFETY: callers pass attributes of characters.
        unsafe { self.set(attribute, text.as_bytes()) }.map(|()| self)
    }

    /// Ends setting attributes; cuDNN checks them.
    pub(super) fn finished(self) -> Result<Self, String> {
        // SAFETY: the descriptor is live.
        let status = unsafe { (self.library.finalize)(self.raw) };
        self.check(status, "cudnnBackendFinalize").map(|()| self)
    }

    /// Reads one number.
    pub(super) fn number(&self, attribute: Attribute) -> Result<i64, String> {
        let mut value = 0_i64;
        // SAFETY: there is room for one number.
        unsafe { self.get(attribute, 1, (&raw mut value).cast()) }.map(|_| value)
    }

    /// Reads descriptors of a kind into new ones; `most` says how many there may be.
    pub(super) fn parts(
        &self,
        attribute: Attribute,
        kind: Kind,
        most: usize,
    ) -> Result<Vec<Self>, String> {
        let mut parts = Vec::with_capacity(most);
        for _ in 0..most {
            parts.push(Self::new(self.library, kind)?);
        }
        let mut raw: Vec<Raw> = parts.iter().map(|part| part.raw).collect();
        // SAFETY: there is room for `most` pointers, each to a descriptor of the kind that is written to.
        let count = unsafe { self.get(attribute, most, raw.as_mut_ptr().cast()) }?;
        parts.truncate(count);
        Ok(parts)
    }

    /// Returns how many values an attribute has.
    pub(super) fn count(&self, attribute: Attribute) -> Result<usize, String> {
        // SAFETY: nothing is written where there is room for nothing.
        unsafe { self.get(attribute, 0, std::ptr::null_mut()) }
    }

    /// # Safety
    ///
    /// There is room for `most` values of the attribute's type.
    unsafe fn get(&self, from: Attribute, most: usize, room: *mut c_void) -> Result<usize, String> {
        let Attribute { number, kind } = from;
        let mut count = 0_i64;
        // SAFETY: the count is written by the call; the room is by the caller's word.
        let status = unsafe {
            let get = self.library.get_attribute;
            get(self.raw, number, kind, most as i64, &raw mut count, room)
        };
        let call = format!("cudnnBackendGetAttribute {number}");
        self.check(status, &call)?;
        usize::try_from(count).map_err(|error| error.to_string())
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: destroyed once, here.
        let _ = unsafe { (self.library.destroy_descriptor)(self.raw) };
    }
}
