//! Working memory of one thread, kept from call to call, so that operators allocate only while it still grows.

use std::cell::RefCell;

use onefold_runtime::Aligned;

thread_local! {
    // A stack: a task that waits for others may be interrupted by one that needs memory too.
    static FREE: RefCell<Vec<Aligned>> = const { RefCell::new(Vec::new()) };
}

/// Calls `work` with `len` numbers of any value.
pub(crate) fn with<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut memory = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    if memory.len() < len {
        memory.resize(len);
    }
    let result = work(&mut memory[..len]);
    FREE.with_borrow_mut(|free| free.push(memory));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_kept_and_nests() {
        let address = with(100, |a| {
            a.fill(1.0);
            with(50, |b| b.fill(2.0));
            assert!(a.iter().all(|v| *v == 1.0));
            a.as_ptr() as usize
        });
        assert_eq!(with(80, |a| (a.len(), a.as_ptr() as usize)), (80, address));
    }
}
