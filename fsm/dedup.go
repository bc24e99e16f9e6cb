package fsm

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/pb"
	"github.com/scope-registry/scope-registry/scope"
)

// The dedup ring remembers the last commands with their results, at least
// ringChunks × ringChunk of them. It is a row of chunks: adding touches the
// newest chunk only, forgetting drops the oldest one whole.
const (
	ringChunk  = 1_024
	ringChunks = 64
	// ringRun is how many commands stand in a run of the newest chunk: one that is
	// looked for is in none of the runs before its id was made.
	ringRun = 16
)

type remembered struct {
	hash   commandHash
	result *Result
}

// chunk is one that is full, and never changes.
type chunk struct {
	number   uint64
	maxIndex uint64 // largest log index of a command in it
	maxFirst uint64 // largest index that a request id in it was made at
	byID     scope.Index[remembered]
}

// newest is the chunk that is being filled: runs in the order in which the
// commands were applied, which a full one puts into an index at once. To put each
// command into that index as it comes takes several times as long.
type newest struct {
	number   uint64
	maxIndex uint64
	maxFirst uint64
	full     growing[run] // oldest first
	open     run          // fewer than ringRun
}

type run struct {
	maxFirst uint64
	commands growing[command]
}

type command struct {
	id string
	remembered
}

// ring is a persistent value; its zero value is empty.
type ring struct {
	full  []chunk // oldest first; never changed in place
	cur   newest
	floor uint64 // every command applied above this index is still remembered
}

func (c newest) len() int { return c.full.n*ringRun + c.open.commands.n }

// find looks at the newest first, as that is where retries are.
func (c newest) find(id string, first uint64, indexed bool) (remembered, bool) {
	for i := c.full.n; i >= 0; i-- {
		r := c.open
		if i < c.full.n {
			r = c.full.all()[i]
		}
		if indexed && r.maxFirst < first {
			continue
		}
		for _, known := range r.commands.all() {
			if known.id == id {
				return known.remembered, true
			}
		}
	}
	return remembered{}, false
}

// with returns the chunk with one command more.
func (c newest) with(id string, m remembered, by *edit) newest {
	first, _ := firstIndex(id)
	c.maxIndex = max(c.maxIndex, m.result.GetIndex())
	c.maxFirst = max(c.maxFirst, first)
	c.open = run{max(c.open.maxFirst, first), c.open.commands.with(command{id, m}, ringRun, by)}
	if c.open.commands.n == ringRun {
		c.full, c.open = c.full.with(c.open, ringChunk/ringRun, by), run{}
	}
	return c
}

// sorted is its commands in the order of their ids.
func (c newest) sorted() []command {
	all := make([]command, 0, c.len())
	for _, r := range c.full.all() {
		all = append(all, r.commands.all()...)
	}
	all = append(all, c.open.commands.all()...)
	slices.SortFunc(all, func(a, b command) int { return cmp.Compare(a.id, b.id) })
	return all
}

// chunk is it as one that is full.
func (c newest) chunk() chunk {
	var byID scope.Builder[remembered]
	for _, known := range c.sorted() {
		byID.Add(scope.Prefix(known.id), known.remembered)
	}
	return chunk{c.number, c.maxIndex, c.maxFirst, byID.Index()}
}

// firstIndex is the log index that a request id of the form "<index>-<random>"
// was made at: its command cannot have been applied at or below that index. The
// random part is exactly 128 bits in hex, or a client's own key that happens to
// begin with digits, such as a UUID, would expire or not be found again.
func firstIndex(id string) (uint64, bool) {
	text, random, ok := strings.Cut(id, "-")
	if !ok || len(random) != 32 || strings.Trim(random, "0123456789abcdef") != "" {
		return 0, false
	}
	n, err := strconv.ParseUint(text, 10, 64)
	return n, err == nil
}

// commandHash tells a retry from another command under the same request id. It is the beginning of a SHA-256.
type commandHash [8]byte

// hasher hashes commands. It keeps the room that one is encoded in for the next.
type hasher struct{ room []byte }

func (h *hasher) of(c Command) (hash commandHash) {
	data, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(h.room[:0], c)
	if err != nil {
		return hash // it was decoded from bytes just now, so this cannot be
	}
	h.room = data
	sum := sha256.Sum256(data)
	copy(hash[:], sum[:])
	return hash
}

// find returns the result of an earlier command with this request id. If there
// may have been one that is forgotten, or if it was another command, it refuses.
func (r ring) find(id string, hash commandHash) (*Result, *api.Error) {
	first, indexed := firstIndex(id)
	got, ok := r.cur.find(id, first, indexed)
	for i := len(r.full) - 1; i >= 0 && !ok; i-- {
		// Which commands are older than the id cannot be told by their own indexes: after a restore or a recovery the log may
		// be shorter than the one that the id was made by.
		if indexed && r.full[i].maxFirst < first {
			continue
		}
		got, ok = r.full[i].byID.Get(scope.Prefix(id))
	}
	switch {
	case ok && got.hash != hash:
		return nil, refuse(api.Invalid, "request id %q was used for another command; use a new one", id)
	case ok:
		return got.result, nil
	case indexed && first < r.floor:
		err := refuse(api.RequestExpired, "request %q was first proposed at index %d, and results up to index %d are forgotten; "+
			"look whether it took effect, then use a new request id", id, first, r.floor)
		err.Floor = r.floor
		return nil, err
	}
	return nil, nil
}

// with returns the ring that also remembers this result.
func (r ring) with(id string, hash commandHash, result *Result, by *edit) ring {
	if r.cur.len() >= ringChunk {
		full := make([]chunk, 0, ringChunks+1)
		full = append(append(full, r.full...), r.cur.chunk())
		if len(full) > ringChunks {
			r.floor = max(r.floor, full[0].maxIndex)
			full = full[1:]
		}
		r.full, r.cur = full, newest{number: r.cur.number + 1}
	}
	r.cur = r.cur.with(id, remembered{hash, result}, by)
	return r
}

// all yields the commands with the numbers of their chunks: chunks oldest first,
// ids in order.
func (r ring) all() iter.Seq2[uint64, command] {
	return func(yield func(uint64, command) bool) {
		for _, c := range r.full {
			for id, m := range c.byID.All() {
				if !yield(c.number, command{string(id), m}) {
					return
				}
			}
		}
		for _, c := range r.cur.sorted() {
			if !yield(r.cur.number, c) {
				return
			}
		}
	}
}

// record is the command as it stands in a snapshot.
func (c command) record(chunk uint64) *pb.DedupRecord {
	return &pb.DedupRecord{Chunk: chunk, RequestId: c.id, CommandHash: c.hash[:], Result: c.result}
}

// loadRecord returns the ring with a record of those that [ring.all] yields. An error
// says that it is not given in that order.
func (r ring) loadRecord(d *pb.DedupRecord, by *edit) (ring, error) {
	if r.cur.len() > 0 && d.GetChunk() != r.cur.number {
		r.full, r.cur = inserted(r.full, r.cur.chunk()), newest{}
	}
	if last, any := r.cur.last(); any && d.GetRequestId() <= last {
		return r, fmt.Errorf("the result of request %.150q does not come after that of %.150q", d.GetRequestId(), last)
	}
	if len(d.GetCommandHash()) != len(commandHash{}) {
		return r, fmt.Errorf("the result of request %.150q has a hash of its command of %d bytes, and not of %d", d.GetRequestId(), len(d.GetCommandHash()), len(commandHash{}))
	}
	r.cur.number = d.GetChunk()
	r.cur = r.cur.with(d.GetRequestId(), remembered{commandHash(d.GetCommandHash()), d.GetResult()}, by)
	return r, nil
}

// last is the id that was added last; false if there is none.
func (c newest) last() (id string, any bool) {
	r := c.open
	if r.commands.n == 0 {
		if c.full.n == 0 {
			return "", false
		}
		r = c.full.all()[c.full.n-1]
	}
	return r.commands.all()[r.commands.n-1].id, true
}
