//! Launches recorded once and replayed with one call.
#![allow(unsafe_code)]

use super::Driver;
use cudarc::driver::{result, sys};
use entropix_model::Result;

/// A recorded sequence of launches, owned by the driver that recorded it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Graph(usize);

impl Driver {
    /// Records what `body` queues instead of running it.
    pub(crate) fn capture(&mut self, body: impl FnOnce(&Self) -> Result<()>) -> Result<Graph> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives as long as this value and is used by this thread alone meanwhile.
        let begun = unsafe { result::stream::begin_capture(self.stream, mode) };
        begun.map_err(|error| self.note("cuStreamBeginCapture", error.0))?;
        let queued = body(self);
        // A capture is ended even when something in it failed, or the stream could never be used again.
        // SAFETY: as above.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        // SAFETY: the graph was just made; it is not needed once it is instantiated, nor where it lacks a launch.
        let executable = queued.and_then(|()| unsafe {
            let graph = graph.map_err(|error| self.note("cuStreamEndCapture", error.0))?;
            let made = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            made.map_err(|error| self.note("cuGraphInstantiate", error.0))
        });
        if let Some(graph) = graph.ok().filter(|graph| !graph.is_null()) {
            // SAFETY: as above; there is none where the capture could not be ended.
            let _ = unsafe { result::graph::destroy(graph) };
        }
        let executable = executable?;
        let free = self.graphs.iter().position(|graph| graph.is_null());
        let at = free.unwrap_or(self.graphs.len());
        self.graphs.resize(self.graphs.len().max(at + 1), std::ptr::null_mut());
        self.graphs[at] = executable;
        Ok(Graph(at))
    }

    /// Gives a recorded sequence back, once nothing queued is of it.
    pub(crate) fn release(&mut self, graph: Graph) -> Result<()> {
        self.wait()?;
        let executable = std::mem::replace(&mut self.graphs[graph.0], std::ptr::null_mut());
        // SAFETY: it was given by the driver and is released once. What fails here has nobody to be told.
        let _ = unsafe { result::graph::exec_destroy(executable) };
        Ok(())
    }

    /// Queues a recorded sequence.
    pub(crate) fn replay(&self, graph: Graph) -> Result<()> {
        // SAFETY: the graph and all memory its launches name live as long as this value.
        let launched = unsafe { result::graph::launch(self.graphs[graph.0], self.stream) };
        launched.map_err(|error| self.note("cuGraphLaunch", error.0))
    }
}
