package gate

import (
	"errors"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/scope-registry/scope-registry/client"
)

// Verdict is what became of a command.
type Verdict uint8

// What may become of one.
const (
	Sent        Verdict = iota // to the store
	Answered                   // by the gate itself: it is about the connection
	Misdirected                // another node owns a key
	Quiesced                   // the scope of a key moves
	LeaseLost                  // this node may not write now
	CrossScope                 // the keys are of several scopes
	Refused                    // no client may use the command, or not like this
	Unknown                    // neither the table nor the store knew the command
	Unavailable                // the store did not answer
	verdicts    int     = iota
)

var verdictNames = [verdicts]string{"sent", "answered", "misdirected", "quiesced", "lease_lost", "cross_scope", "refused", "unknown_command", "unavailable"}

// String is the verdict as a label.
func (v Verdict) String() string { return verdictNames[v] }

// Class is what a command is: it reads keys, writes keys, or touches none.
type Class uint8

// The classes.
const (
	Other   Class = iota
	Read          // of keys
	Write         // of keys; EXEC of a transaction that writes is one
	classes int   = iota
)

var classNames = [classes]string{"other", "read", "write"}

// String is the class as a label.
func (c Class) String() string { return classNames[c] }

// counters are what a gate counts. Those of commands are added to once for each batch.
type counters struct {
	commands [classes][verdicts]atomic.Uint64
	sent     atomic.Uint64 // slots, those of the gate's own commands too
	done     atomic.Uint64
	unsure   atomic.Uint64
	limbo    atomic.Int64
	inward   histogram
	outward  histogram
}

// Stats is what a gate has counted since it began.
type Stats struct {
	Commands [classes][verdicts]uint64 // by Class and Verdict
	Unsure   uint64                    // writes that executed and were not acknowledged, as the node did not own the key all along
	InFlight int64                     // commands that the store has not answered yet
	Limbo    int64                     // writes of broken connections that may still execute
	Clients  int
	Pipes    int64 // connections to the store
	Inward   Latency
	Outward  Latency
	Parked   int // commands that may wait in the store
}

// Latency is what the gate adds to commands, apart from waiting for the store: inward from the bytes of a client to those for
// the store, outward from the bytes of the store to those for the clients. A batch of commands counts once.
type Latency struct {
	// Below has, at i, how many took less than [LatencyBound](i), and not less than the bound before.
	Below [latencies]uint64
	Sum   time.Duration
}

// latencies is how many bounds there are: from 1 µs, each twice the one before, to half a second, and none.
const latencies = 21

// LatencyBound is the i-th bound; 0 is none, which is the last.
func LatencyBound(i int) time.Duration {
	if i == latencies-1 {
		return 0
	}
	return time.Microsecond << i
}

type histogram struct {
	below [latencies]atomic.Uint64
	sum   atomic.Int64
}

func (h *histogram) add(d time.Duration) {
	h.below[min(bits.Len64(uint64(max(0, d)/time.Microsecond)), latencies-1)].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) read() (l Latency) {
	for i := range h.below {
		l.Below[i] = h.below[i].Load()
	}
	l.Sum = time.Duration(h.sum.Load())
	return l
}

// Stats returns what has been counted. It may be called while the gate serves.
func (g *Gate) Stats() Stats {
	k := &g.count
	s := Stats{Unsure: k.unsure.Load(), Limbo: k.limbo.Load(), Pipes: g.pipes.Load(), Inward: k.inward.read(), Outward: k.outward.read()}
	for c := range k.commands {
		for v := range k.commands[c] {
			s.Commands[c][v] = k.commands[c][v].Load()
		}
	}
	done := k.done.Load() // before sent, so that the difference is not below 0
	s.InFlight = int64(k.sent.Load() - done)
	g.mu.Lock()
	defer g.mu.Unlock()
	s.Clients = len(g.conns)
	for _, p := range g.parked {
		if !p.over() {
			s.Parked++
		}
	}
	return s
}

// refusedBy counts a refusal.
func (g *Gate) refusedBy(class Class, err error) {
	v := Refused
	switch {
	case errors.Is(err, client.ErrMisdirected):
		v = Misdirected
	case errors.Is(err, client.ErrQuiesced):
		v = Quiesced
	case errors.Is(err, client.ErrLeaseLost):
		v = LeaseLost
	case errors.Is(err, client.ErrCrossScope):
		v = CrossScope
	case errors.Is(err, &client.Error{Code: client.CodeUnavailable}):
		v = Unavailable
	}
	g.count.commands[class][v].Add(1)
}
