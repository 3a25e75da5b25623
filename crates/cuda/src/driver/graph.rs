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
        queued?;
        let graph = graph.map_err(|error| self.note("cuStreamEndCapture", error.0))?;
        // SAFETY: the graph was just made; it is not needed once it is instantiated.
        let executable = unsafe {
            let made = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            made
        };
        self.graphs.push(executable.map_err(|error| self.note("cuGraphInstantiate", error.0))?);
        Ok(Graph(self.graphs.len() - 1))
    }

    /// Queues a recorded sequence.
    pub(crate) fn replay(&self, graph: Graph) -> Result<()> {
        // SAFETY: the graph and all memory its launches name live as long as this value.
        let launched = unsafe { result::graph::launch(self.graphs[graph.0], self.stream) };
        launched.map_err(|error| self.note("cuGraphLaunch", error.0))
    }
}
