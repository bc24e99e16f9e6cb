package client

import (
	"context"
	"errors"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/scope"
)

// Slice is what moves: the records of a scope, for one move.
type Slice struct {
	Move   string // id
	Prefix scope.Prefix
}

// Record is one key with its value. What a value is only the store knows; a store
// with several kinds of values puts the kind into it.
type Record struct {
	Key, Value []byte
	// Expires is when the record expires, in milliseconds since 1970; 0 is never.
	Expires int64
	// Deleted: the key, which an earlier batch of the same slice brought, is not in
	// the slice any more. Only [Store.Stage] meets it, and what [Tracking.Changed]
	// is given.
	Deleted bool

	// was is what the stream had of the key before; nil if nothing, or if it is not
	// told, as by a source whose store is no [Tracker].
	was *former
}

// Manifest sums up the records of a slice, in no order.
type Manifest = api.Manifest

// Store is what a store does when a scope moves to or from its node. Every method
// may be called while the store is in use, of one move by one goroutine at a time,
// and must stop soon when its context ends. An error of Ship, Stage or Verify has
// the move aborted, with the error as the reason; the others are tried again.
type Store interface {
	// Ship hands every record under s.Prefix to send, in any order, each once. It
	// runs at the source: over and over while the scope is still written, if the move
	// copies beforehand, and then, or only, when it is closed and no write is under
	// way; once, but again if the target lost what it had. While the scope is written
	// a record may be handed over as it was at any time since Ship was called. An
	// error of send ends it and is returned as it is. Records may be changed after
	// send has returned.
	Ship(ctx context.Context, s Slice, send func(Record) error) error

	// Stage puts records aside for the move, in place of what it has of the same
	// keys, and drops the keys of those that are Deleted, if it has them. It runs at
	// the target. What is staged is not served, and need not be durable yet. A batch
	// may come twice; a key is not twice in one. The records may be kept. Of a slice
	// without records nothing is staged: then Verify has none to hand over, and Promote
	// none to put in place.
	Stage(ctx context.Context, s Slice, batch []Record) error

	// Verify makes what is staged for the move durable, and then reads each staged
	// record, as a Promote would, and hands it to each; also one that has expired
	// meanwhile. From it the manifest is computed that must equal the source's. An
	// error of each ends it and is returned as it is.
	Verify(ctx context.Context, s Slice, each func(Record) error) error

	// Promote replaces all that the store holds under s.Prefix by what is staged, and
	// is durable when it returns. Nothing under the prefix is written meanwhile. It
	// keeps the staged records: a process that dies before this is noted does it
	// again. It must not be served half done, but may be done in steps.
	Promote(ctx context.Context, s Slice) error

	// Discard deletes what is staged for a move, if anything is.
	Discard(ctx context.Context, move string) error

	// Staged names the moves for which anything is staged, from earlier processes
	// too. It is asked when a session starts.
	Staged(ctx context.Context) ([]string, error)

	// Clean deletes some hundred records under p at most, durably, and says whether
	// any is left. It runs at the old owner of a scope, after the grace time. Between
	// two calls the scope may have come back, and then there is no other call.
	Clean(ctx context.Context, p scope.Prefix) (more bool, err error)
}

// Sizer is what a [Store] may have besides that is no [Offerer], to tell how far a
// move is: how many records and bytes are under a prefix, about. It is asked while Ship runs, and
// must stop soon when its context ends. Without it nothing is told of a move until
// its records were sent once.
type Sizer interface {
	Size(ctx context.Context, p scope.Prefix) (records, bytes uint64, err error)
}

// Tracker is what a [Store] may have besides, to tell which keys change while they
// are written. With it only the first pass of a copy reads the whole slice, and what
// is left when the scope is closed takes as long as what changed in the pass before.
type Tracker interface {
	// Track begins to note what changes under s.Prefix, and has begun when it returns.
	// ctx is of the call only. An error has the slice copied without.
	Track(ctx context.Context, s Slice) (Tracking, error)
}

// ErrTrackingLost says that changes may have been missed. What goes by a [Tracking]
// is then read as a whole once more, with another one.
var ErrTrackingLost = errors.New("what has changed is not known any more")

// Tracking is what changes under a prefix. It is used by one goroutine at a time.
type Tracking interface {
	// Ship is as that of the [Store].
	Ship(ctx context.Context, send func(Record) error) error

	// Changed hands over each key that may have changed since Ship or Changed read it
	// last, as it is now, once: Deleted if it is not there. It knows of every change
	// whose writer had its answer before Changed was called; when the scope is closed
	// and no write is under way that is all. Keys that were not handed over, as send
	// failed, come again. Errors that are neither send's nor ctx's abort the move, but
	// for [ErrTrackingLost].
	Changed(ctx context.Context, send func(Record) error) error

	// Keys hands over every key that is there now, in any order, perhaps twice. It
	// reads no values.
	Keys(ctx context.Context, each func(key []byte) error) error

	// Look has Changed hand over these keys too.
	Look(keys []string)

	// Close ends it; it does not wait long. It may be called twice.
	Close()
}

// Offerer is what a [Store] may have besides, to find out before the first record
// leaves whether a slice can go to its target at all: with a copy beforehand while
// the scope is still written.
type Offerer interface {
	// Offer describes a slice at its source. An error aborts the move.
	Offer(ctx context.Context, s Slice) (Offered, error)

	// Take looks at the target at what the source has offered. It is followed by Stage,
	// or by Settle. An error aborts the move.
	Take(ctx context.Context, s Slice, offer []byte) error
}

// Offered describes a slice: for its target, in at most [MaxOffer] bytes; and, to
// tell how far the move is, how much there is, about.
type Offered struct {
	Text           []byte
	Records, Bytes uint64
}

// Settler is what a [Store] has besides that cannot read back a record as it came,
// as it keeps values in a form of its own. The manifest is then computed from the
// records that Stage has taken without an error, and Settle is called in place of
// Verify, which is never called. The source's store must be a [Tracker]: only those
// tell what a record replaces.
type Settler interface {
	// Settle makes what is staged for the move durable, and compares it with what
	// Stage took as far as it can. taken sums that up; without records Stage was not
	// called. An error has the move aborted.
	Settle(ctx context.Context, s Slice, taken Manifest) error
}

// Batch is some records of a slice on their way from the source of a move to its
// target. The first of a stream, number 0, replaces what earlier streams of the
// move brought.
type Batch struct {
	Slice
	Stream  string // random: a source that begins anew draws another one
	Number  uint64 // in the stream, from 0
	Records []Record
	Last    bool     // the slice is complete
	Sum     Manifest // of the whole slice; with Last
	Offer   []byte   // of an [Offerer]; alone, in the first batch
}

// Peer is a node as the registry knows it.
type Peer struct{ Node, Addr string }

// Send carries a batch to another node, which gives it to [Session.Receive], and
// returns what that returned: an [*Error] with its code, or one with code
// UNAVAILABLE or OUTCOME_UNKNOWN if it did not get there or no answer came back. A
// batch may be sent twice. Nothing of b is used once it has returned.
type Send func(ctx context.Context, to Peer, b *Batch) error
