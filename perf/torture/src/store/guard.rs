//! Panics as findings: what a check or the store itself panics with is caught, with its place, and said nowhere else.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Once, OnceLock};

thread_local! {
    static DEPTH: Cell<u32> = const { Cell::new(0) };
    static MESSAGE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs this to its end, or until it panics; then the message and its place.
///
/// # Errors
///
/// The message of the panic.
pub fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if DEPTH.get() == 0 {
                return before(panic);
            }
            let text = panic
                .payload_as_str()
                .unwrap_or("a panic without a message");
            let place = panic.location().map_or_else(String::new, |place| {
                format!(" ({}:{})", place.file(), place.line())
            });
            MESSAGE.with_borrow_mut(|message| {
                message.get_or_insert_with(|| format!("{text}{place}"));
            });
        }));
    });
    DEPTH.set(DEPTH.get() + 1);
    // What the work leaves half-done is dropped with it: nobody looks at it again.
    let outcome = catch_unwind(AssertUnwindSafe(work));
    DEPTH.set(DEPTH.get() - 1);
    let message = MESSAGE.take();
    outcome.map_err(|_| message.unwrap_or_else(|| "a panic that nobody described".to_owned()))
}

/// Tells a step of a run on the standard error, if `STRAND_TORTURE_TRACE` is set: for whoever replays one.
pub(crate) fn say(what: impl FnOnce() -> String) {
    static IS_WANTED: OnceLock<bool> = OnceLock::new();
    if *IS_WANTED.get_or_init(|| std::env::var_os("STRAND_TORTURE_TRACE").is_some()) {
        eprintln!("{}", what());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_place_and_the_next_run_is_clean() {
        let told = guarded(|| panic!("seven of {}", 9)).unwrap_err();
        assert!(
            told.starts_with("seven of 9 (") && told.contains("guard.rs"),
            "{told}"
        );
        assert_eq!(guarded(|| 4), Ok(4));
    }
}
