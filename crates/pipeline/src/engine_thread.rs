//! Runs an engine's code on a thread of its own: with room for its recursion, and so that its panic is an
//! error here. Called where models are loaded and measured; it never changes how a panic is logged.

use std::any::Any;

/// Stack of a thread that loads models or runs them. rten plans a model by recursion, one frame for each operator on
/// the longest path, which the usual 2 MiB do not hold for models of some thousand. Only address space is taken until
/// it is used.
pub(crate) const STACK: usize = 64 << 20;

/// What `work` gives, or what it said when it panicked.
pub(crate) fn run<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, String> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("engine".to_owned()).stack_size(STACK);
        let thread = thread.spawn_scoped(scope, work).map_err(|e| format!("cannot start a thread: {e}"))?;
        thread.join().map_err(|panic| format!("the engine panicked: {}", text(&*panic)))
    })
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref().copied()).unwrap_or("it did not say why")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_that_says_what_it_said() {
        assert_eq!(run(|| 7), Ok(7));
        let words = |work: fn()| run(work).unwrap_err();
        assert_eq!(words(|| panic!("plain")), "the engine panicked: plain");
        assert_eq!(words(|| panic!("with {}", 1)), "the engine panicked: with 1");
        assert_eq!(words(|| std::panic::panic_any(3)), "the engine panicked: it did not say why");
    }

    #[test]
    fn there_is_room_for_deep_recursion() {
        fn deep(n: usize) -> usize {
            let place = std::hint::black_box([n; 64]);
            if n == 0 { place[63] } else { deep(n - 1) + std::hint::black_box(place)[0] - n + 1 }
        }
        assert_eq!(run(|| deep(50_000)), Ok(50_000));
    }
}
