//! Starting the threads of a machine, and knowing that each is there.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

/// A thread's way to say that it is there. Dropping it says that the thread never will be.
#[derive(Debug)]
pub(crate) struct Arrival(mpsc::Sender<()>);

impl Arrival {
    /// The calling thread is there: whoever started it may go on.
    pub(crate) fn announce(self) {
        // The starter waits as long as anybody may announce himself.
        let _ = self.0.send(());
    }
}

/// Starts a thread for each of `bodies`, named `vcpu` and its number, adds it to `threads`, and waits
/// until each has announced itself.
///
/// # Errors
/// A thread could not be started, or ended (by a panic as well) without having announced itself.
/// Those that did start are in `threads`.
pub(crate) fn start<T, B>(
    bodies: impl IntoIterator<Item = B>,
    threads: &mut Vec<JoinHandle<T>>,
) -> io::Result<()>
where
    T: Send + 'static,
    B: FnOnce(Arrival) -> T + Send + 'static,
{
    let (arrival, arrivals) = mpsc::channel();
    let mut started = 0;
    for (cpu, body) in bodies.into_iter().enumerate() {
        let arrival = Arrival(arrival.clone());
        let builder = thread::Builder::new().name(format!("vcpu{cpu}"));
        threads.push(builder.spawn(move || body(arrival))?);
        started += 1;
    }
    drop(arrival);
    // Ends when nobody is left who could announce himself.
    if arrivals.iter().count() == started {
        Ok(())
    } else {
        Err(io::Error::other("it ended before its vCPU ran"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    type Body = Box<dyn FnOnce(Arrival) -> usize + Send>;

    fn joined(threads: Vec<JoinHandle<usize>>) -> Vec<Option<usize>> {
        let joined = threads.into_iter().map(|thread| thread.join().ok());
        joined.collect()
    }

    #[test]
    fn threads_that_come_late_are_waited_for() {
        let there = Arc::new(AtomicUsize::new(0));
        let bodies = (0..3).map(|cpu| -> Body {
            let there = Arc::clone(&there);
            Box::new(move |arrival| {
                // As if the host had something better to do with its cores.
                thread::sleep(Duration::from_millis(10 * cpu as u64));
                there.fetch_add(1, Ordering::SeqCst);
                arrival.announce();
                cpu
            })
        });
        let mut threads = vec![];
        start(bodies, &mut threads).unwrap();
        assert_eq!(there.load(Ordering::SeqCst), 3);
        assert_eq!(joined(threads), [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn a_thread_goes_on_once_it_has_announced_itself() {
        // Each ends only after all have been started.
        let (go, waiting) = mpsc::channel::<()>();
        let body: Body = Box::new(move |arrival| {
            arrival.announce();
            waiting.recv().map_or(0, |()| 1)
        });
        let mut threads = vec![];
        start([body], &mut threads).unwrap();
        go.send(()).unwrap();
        assert_eq!(joined(threads), [Some(1)]);
    }

    #[test]
    fn a_thread_that_ends_too_soon_is_an_error_and_not_waited_for() {
        let bodies: [Body; 2] = [
            Box::new(|arrival| {
                arrival.announce();
                0
            }),
            Box::new(|arrival| {
                drop(arrival);
                1
            }),
        ];
        let mut threads = vec![];
        let error = start(bodies, &mut threads).unwrap_err();
        assert_eq!(error.to_string(), "it ended before its vCPU ran");
        assert_eq!(joined(threads), [Some(0), Some(1)]);
    }

    #[test]
    fn a_thread_that_panics_is_an_error_and_not_waited_for() {
        // Quietly: resume_unwind calls no panic hook.
        let body: Body = Box::new(|_| std::panic::resume_unwind(Box::new(())));
        let mut threads = vec![];
        assert!(start([body], &mut threads).is_err());
        assert_eq!(joined(threads), [None]);
    }
}
