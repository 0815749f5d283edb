//! A panic anywhere in a world is a finding, also in a task whose end nobody awaits.

use std::cell::RefCell;
use std::sync::Once;

thread_local! {
    /// `None` in threads that run no world.
    static PANIC: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// From now on panics of this thread are kept instead of printed. A world runs in one thread.
pub fn catch_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let kept = PANIC.with_borrow_mut(|kept| {
                kept.as_mut().map(|kept| kept.push(panic.to_string())).is_some()
            });
            if !kept {
                others(panic);
            }
        }));
    });
    PANIC.with_borrow_mut(|kept| *kept = Some(Vec::new()));
}

/// The first panic since the last call.
pub(super) fn take() -> Option<String> {
    PANIC.with_borrow_mut(|kept| {
        let panics = std::mem::take(kept.as_mut()?);
        panics.into_iter().next()
    })
}
