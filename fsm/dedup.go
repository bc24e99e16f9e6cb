package fsm

import (
	"bytes"
	"crypto/sha256"
	"iter"
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
)

type remembered struct {
	hash   []byte
	result *Result
}

type chunk struct {
	number   uint64
	maxIndex uint64 // largest log index of a command in it
	maxFirst uint64 // largest index that a request id in it was made at
	byID     scope.Index[remembered]
}

// ring is a persistent value; its zero value is empty.
type ring struct {
	full  []chunk // oldest first; never changed in place
	cur   chunk
	floor uint64 // every command applied above this index is still remembered
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

// hashCommand tells a retry from another command under the same request id.
func hashCommand(c Command) []byte {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		return nil // it was decoded from bytes just now, so this cannot be
	}
	sum := sha256.Sum256(data)
	return sum[:8]
}

// find returns the result of an earlier command with this request id. If there
// may have been one that is forgotten, or if it was another command, it refuses.
func (r ring) find(id string, hash []byte) (*Result, *api.Error) {
	first, indexed := firstIndex(id)
	got, ok := r.cur.byID.Get(scope.Prefix(id))
	for i := len(r.full) - 1; i >= 0 && !ok; i-- {
		// Which commands are older than the id cannot be told by their own indexes: after a restore or a recovery the log may
		// be shorter than the one that the id was made by.
		if indexed && r.full[i].maxFirst < first {
			continue
		}
		got, ok = r.full[i].byID.Get(scope.Prefix(id))
	}
	switch {
	case ok && !bytes.Equal(got.hash, hash):
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
func (r ring) with(id string, hash []byte, result *Result) ring {
	if r.cur.byID.Len() >= ringChunk {
		full := make([]chunk, 0, ringChunks)
		full = append(append(full, r.full...), r.cur)
		if len(full) > ringChunks {
			r.floor = max(r.floor, full[0].maxIndex)
			full = full[1:]
		}
		r.full, r.cur = full, chunk{number: r.cur.number + 1}
	}
	return r.load(id, remembered{hash, result})
}

func (r ring) load(id string, m remembered) ring {
	r.cur.byID = r.cur.byID.With(scope.Prefix(id), m)
	r.cur.maxIndex = max(r.cur.maxIndex, m.result.GetIndex())
	first, _ := firstIndex(id)
	r.cur.maxFirst = max(r.cur.maxFirst, first)
	return r
}

// records yields the ring for a snapshot: chunks oldest first, ids in order.
func (r ring) records() iter.Seq[*pb.DedupRecord] {
	return func(yield func(*pb.DedupRecord) bool) {
		for i := range len(r.full) + 1 {
			c := r.cur
			if i < len(r.full) {
				c = r.full[i]
			}
			for id, m := range c.byID.All() {
				if !yield(&pb.DedupRecord{Chunk: c.number, RequestId: string(id), CommandHash: m.hash, Result: m.result}) {
					return
				}
			}
		}
	}
}

// loadRecord returns the ring with a record that [ring.records] yielded, given
// in the same order.
func (r ring) loadRecord(d *pb.DedupRecord) ring {
	if r.cur.byID.Len() > 0 && d.GetChunk() != r.cur.number {
		full := make([]chunk, 0, len(r.full)+1)
		r.full = append(append(full, r.full...), r.cur)
		r.cur = chunk{}
	}
	r.cur.number = d.GetChunk()
	return r.load(d.GetRequestId(), remembered{d.GetCommandHash(), d.GetResult()})
}
