package rig

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/crash/writes"
)

// Counts are how attempts to write ended. Strange ones got an answer that no store
// should give.
type Counts struct{ Acknowledged, Refused, Unknown, Strange int }

// Add adds those of another rig.
func (c *Counts) Add(o Counts) {
	c.Acknowledged += o.Acknowledged
	c.Refused += o.Refused
	c.Unknown += o.Unknown
	c.Strange += o.Strange
}

// book keeps what clients were told. It is safe for use by many goroutines.
type book struct {
	mu      sync.Mutex // guards the rest
	file    *os.File
	out     *bufio.Writer
	failed  error // of writing the file
	ledgers map[string]*writes.Ledger
	tenures *writes.Tenures
	counts  Counts
	acks    map[string][]int64 // when acknowledgements came, of each scope, since the last mark
	strange []string
}

// maxStrange bounds how many strange answers are kept for people.
const maxStrange = 20

func newBook(path string) (*book, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &book{file: f, out: bufio.NewWriter(f), ledgers: map[string]*writes.Ledger{}, tenures: writes.NewTenures(), acks: map[string][]int64{}}, nil
}

func (b *book) ledger(scope string) *writes.Ledger {
	if b.ledgers[scope] == nil {
		b.ledgers[scope] = writes.NewLedger(scope)
	}
	return b.ledgers[scope]
}

func (b *book) add(op writes.Op) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ledger(op.Scope).Add(op)
	b.tenures.Add(op)
	switch op.Outcome {
	case writes.Acknowledged:
		b.counts.Acknowledged++
		b.acks[op.Scope] = append(b.acks[op.Scope], op.Return)
	case writes.Refused:
		b.counts.Refused++
	default:
		b.counts.Unknown++
	}
	switch op.Code {
	case "", "MISDIRECTED", "QUIESCED", "LEASE_LOST", "OUTCOME_UNKNOWN", "UNAVAILABLE":
	default:
		b.counts.Strange++
		if len(b.strange) < maxStrange {
			b.strange = append(b.strange, fmt.Sprintf("%s: %q got %s: %.200s", op.Node, op.Key, op.Code, op.Detail))
		}
	}
	if line, err := json.Marshal(op); err != nil {
		b.failed = err
	} else if _, err := b.out.Write(append(line, '\n')); err != nil {
		b.failed = err
	}
}

// tenure notes a change of an owner, as the watch tells it.
func (b *book) tenure(t Tenure) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tenures.Owner(t.Scope, t.Token, t.Owner)
	if t.Takeover {
		b.ledger(t.Scope).TakenOver(t.Token.Epoch)
	}
}

// settle compares what a scope's owner has with what was acknowledged.
func (b *book) settle(scope string, dump []writes.Record, epoch uint64) []writes.Finding {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append(b.ledger(scope).Settle(dump, epoch), b.tenures.Check()...)
}

// mark begins a span for silence.
func (b *book) mark() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.acks)
}

// silence is the longest time in which no write of a scope was acknowledged, since
// the mark and from one time to another.
func (b *book) silence(scope string, from, to time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	at, longest := from.UnixNano(), int64(0)
	for _, ack := range append(slices.Sorted(slices.Values(b.acks[scope])), to.UnixNano()) {
		ack = min(ack, to.UnixNano())
		longest, at = max(longest, ack-at), max(at, ack)
	}
	return time.Duration(longest)
}

func (b *book) total() (Counts, []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.counts, slices.Clone(b.strange)
}

func (b *book) acknowledged(scope string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.acks[scope])
}

func (b *book) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return errors.Join(b.failed, b.out.Flush(), b.file.Close())
}
