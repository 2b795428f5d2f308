//! What goes through httpd's filters: a ring of buckets, and our place beside it.
//!
//! The unsafe blocks rest on what `httpd` says about all handles. A bucket is in one ring until it is taken out, and is
//! destroyed after its use.

use std::ffi::c_int;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

use super::{Request, SUCCESS, Status};
use crate::ffi;

/// Our place in a request's chain of output filters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filter<'a>(NonNull<ffi::ap_filter_t>, PhantomData<&'a ()>);

impl<'a> Filter<'a> {
    /// # Safety
    /// httpd has given us this filter for the time of `'a`.
    pub(crate) unsafe fn new(raw: *mut ffi::ap_filter_t) -> Option<Self> {
        NonNull::new(raw).map(|raw| Self(raw, PhantomData))
    }

    pub(crate) fn request(&self) -> Option<Request<'a>> {
        // SAFETY: see the module.
        unsafe { Request::new(self.0.as_ref().r) }
    }

    /// To the next filter, which takes the pieces.
    pub(crate) fn pass(&self, brigade: &Brigade<'_>) -> Status {
        // SAFETY: see the module.
        unsafe { ffi::ap_pass_brigade(self.0.as_ref().next, brigade.0) }
    }

    /// We are not called for this request again.
    pub(crate) fn remove(&self) {
        // SAFETY: see the module.
        unsafe { ffi::ap_remove_output_filter(self.0.as_ptr()) }
    }

    /// An empty brigade for this request.
    pub(crate) fn brigade(&self) -> Brigade<'a> {
        // SAFETY: see the module.
        unsafe {
            let (request, connection) = (self.0.as_ref().r, self.0.as_ref().c);
            Brigade::new((*request).pool, (*connection).bucket_alloc)
        }
    }
}

/// A piece of a response on its way through the filters.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    Bytes(&'a [u8]),
    /// The response is complete.
    End,
    /// What should be a response has failed.
    Error,
    /// A flush, or whatever else is no concern of ours.
    Other,
}

/// A list of pieces: a ring of buckets whose sentinel is the list's own head.
#[derive(Debug)]
pub(crate) struct Brigade<'a>(*mut ffi::apr_bucket_brigade, PhantomData<&'a ()>);

impl Brigade<'_> {
    /// # Safety
    /// httpd has given us this brigade, and it is not null.
    pub(crate) unsafe fn from_raw(raw: *mut ffi::apr_bucket_brigade) -> Self {
        Self(raw, PhantomData)
    }

    /// # Safety
    /// Both live as long as the brigade.
    pub(super) unsafe fn new(pool: *mut ffi::apr_pool_t, list: *mut ffi::apr_bucket_alloc_t) -> Self {
        // SAFETY: as the caller says.
        Self(unsafe { ffi::apr_brigade_create(pool, list) }, PhantomData)
    }

    pub(super) fn raw(&self) -> *mut ffi::apr_bucket_brigade {
        self.0
    }

    /// Takes the pieces out, one after the other, until there are no more or `each` says false.
    pub(crate) fn take(&mut self, mut each: impl FnMut(Piece<'_>) -> bool) {
        loop {
            // SAFETY: see the module; a bucket is in the ring until it is removed here, and destroyed after its use.
            unsafe {
                let first = (*self.0).list.next;
                if first == self.sentinel() {
                    return;
                }
                let goes_on = each(read(first));
                (*(*first).link.prev).link.next = (*first).link.next;
                (*(*first).link.next).link.prev = (*first).link.prev;
                ((*(*first).kind).destroy)((*first).data);
                ((*first).free)(first.cast());
                if !goes_on {
                    return;
                }
            }
        }
    }

    /// Forgets all pieces.
    pub(crate) fn clear(&self) {
        // SAFETY: see the module.
        unsafe { ffi::apr_brigade_cleanup(self.0.cast()) };
    }

    pub(crate) fn push_bytes(&self, bytes: &[u8]) {
        // SAFETY: see the module; without a function to free them the bytes are copied.
        let bucket = unsafe {
            ffi::apr_bucket_heap_create(bytes.as_ptr().cast(), bytes.len(), None, (*self.0).bucket_alloc)
        };
        self.push(bucket);
    }

    pub(crate) fn push_flush(&self) {
        // SAFETY: see the module.
        self.push(unsafe { ffi::apr_bucket_flush_create((*self.0).bucket_alloc) });
    }

    pub(crate) fn push_end(&self) {
        // SAFETY: see the module.
        self.push(unsafe { ffi::apr_bucket_eos_create((*self.0).bucket_alloc) });
    }

    /// The request is to be answered with this status, and its error page.
    pub(crate) fn push_error(&self, status: c_int) {
        // SAFETY: see the module.
        let bucket =
            unsafe { ffi::ap_bucket_error_create(status, ptr::null(), (*self.0).p, (*self.0).bucket_alloc) };
        self.push(bucket);
    }

    fn push(&self, bucket: *mut ffi::apr_bucket) {
        let sentinel = self.sentinel();
        // SAFETY: see the module; a new bucket is in no ring yet.
        unsafe {
            let last = (*sentinel).link.prev;
            (*bucket).link.prev = last;
            (*bucket).link.next = sentinel;
            (*last).link.next = bucket;
            (*sentinel).link.prev = bucket;
        }
    }

    /// The ring's head, as if it were a bucket: a bucket begins with its link.
    fn sentinel(&self) -> *mut ffi::apr_bucket {
        // SAFETY: see the module; only its address is taken.
        unsafe { (&raw mut (*self.0).list).cast() }
    }
}

/// # Safety
/// The bucket is in a ring, and stays there as long as the piece is used.
unsafe fn read<'a>(bucket: *mut ffi::apr_bucket) -> Piece<'a> {
    // SAFETY: as the caller says; `read` gives bytes that live as long as the bucket.
    unsafe {
        let kind = (*bucket).kind;
        if ptr::eq(kind, &raw const ffi::apr_bucket_type_eos) {
            return Piece::End;
        }
        if ptr::eq(kind, &raw const ffi::ap_bucket_type_error) {
            return Piece::Error;
        }
        if (*kind).is_metadata != 0 {
            return Piece::Other;
        }
        let (mut bytes, mut length) = (ptr::null(), 0);
        match ((*kind).read)(bucket, &raw mut bytes, &raw mut length, ffi::APR_BLOCK_READ) {
            SUCCESS if length == 0 => Piece::Other,
            SUCCESS => Piece::Bytes(std::slice::from_raw_parts(bytes.cast(), length)),
            _ => Piece::Error,
        }
    }
}
