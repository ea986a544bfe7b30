//! Not inhabited until the codec lands: the pipeline compiles against these names.
use std::task::{Context, Poll};

use bytes::Bytes;
use outrigger_engine::message::{Headers, RequestHead, ResponseHead};

use super::{Frame, Reply, StreamError};

/// A body that this codec reads.
#[derive(Debug)]
pub enum Body {}

impl Body {
    pub(super) fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, StreamError>>> {
        match *self {}
    }

    pub(super) fn is_end(&self) -> bool {
        match *self {}
    }
}

/// The way to answer.
#[derive(Debug)]
pub enum Responder {}

impl Responder {
    pub(super) fn send_informational(&mut self, _: ResponseHead) -> Result<(), StreamError> {
        match *self {}
    }

    pub(super) fn send_head(&mut self, _: ResponseHead, _: bool) -> Result<(), StreamError> {
        match *self {}
    }

    pub(super) fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match *self {}
    }

    pub(super) fn send_data(&mut self, _: Bytes, _: bool) -> Result<(), StreamError> {
        match *self {}
    }

    pub(super) fn send_trailers(&mut self, _: Headers) -> Result<(), StreamError> {
        match *self {}
    }

    pub(super) fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match *self {}
    }

    pub(super) fn poll_reset(&mut self, _: &mut Context<'_>) -> Poll<StreamError> {
        match *self {}
    }

    pub(super) fn close_after(&mut self) {
        match *self {}
    }

    pub(super) fn reset(self) {
        match self {}
    }
}

/// A request on an upstream connection.
#[derive(Debug)]
pub enum ClientStream {}

impl ClientStream {
    pub(super) fn send_head(&mut self, _: RequestHead, _: bool) -> Result<(), StreamError> {
        match *self {}
    }

    pub(super) fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match *self {}
    }

    pub(super) fn send_data(&mut self, _: Bytes, _: bool) -> Result<(), StreamError> {
        match *self {}
    }

    pub(super) fn send_trailers(&mut self, _: Headers) -> Result<(), StreamError> {
        match *self {}
    }

    pub(super) fn poll_reply(&mut self, _: &mut Context<'_>) -> Poll<Result<Reply, StreamError>> {
        match *self {}
    }
}

/// An idle upstream connection.
#[derive(Debug)]
pub enum ClientConnection {}
