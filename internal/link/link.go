// Package link carries TCP connections between processes on one machine as a network does that can be cut, slowed down
// and mended, one direction at a time. Whoever is to be reached through it is given the address of a [Cable] instead of
// the other's own; who dials is told apart by the cable it was given, or by what it says first.
package link

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Way is one direction: what From sends to To, over connections that either of them has dialed.
type Way struct{ From, To string }

// Back is the other direction.
func (w Way) Back() Way { return Way{w.To, w.From} }

// State is what a direction does to what is sent.
type State struct {
	// Cut keeps everything back, as a network does whose packets are lost: connections stay open, nobody is told, and what
	// was kept back arrives late when it is mended.
	Cut bool
	// Delay is what each byte takes on its way. Bytes do not overtake each other.
	Delay time.Duration
	// Loss is the part of what is sent, 0 to 1, that is lost and sent again: it comes late by [Resend], and by twice as much
	// for each time that it is lost again, and all after it waits for it, as over TCP.
	Loss float64
}

// Resend is how long it takes until what was lost is sent again.
const Resend = 200 * time.Millisecond

// layer is what one of those who shape a direction does to it.
type layer struct {
	by      string
	state   State
	slowest time.Duration // that anything took since
}

// Net is all directions. It is safe for use by many goroutines.
type Net struct {
	mu      sync.Mutex // guards the rest
	layers  map[Way][]*layer
	changed chan struct{} // closed at the next change
	carried map[Way]int64
}

// New is a network that is whole.
func New() *Net {
	return &Net{layers: map[Way][]*layer{}, changed: make(chan struct{}), carried: map[Way]int64{}}
}

// Set changes what somebody does to a direction, for connections that are open too; the zero state takes it back. What
// several do to one direction is done together: it is cut if any has cut it, and as slow as the slowest.
func (n *Net) Set(by string, w Way, s State) {
	n.change(func() {
		rest := slices.DeleteFunc(slices.Clone(n.layers[w]), func(l *layer) bool { return l.by == by })
		if s != (State{}) {
			rest = append(rest, &layer{by: by, state: s})
		}
		n.layers[w] = rest
	})
}

// Heal makes every direction whole.
func (n *Net) Heal() { n.change(func() { clear(n.layers) }) }

func (n *Net) change(what func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	what()
	close(n.changed)
	n.changed = make(chan struct{})
}

// Carried is how many bytes were delivered in a direction.
func (n *Net) Carried(w Way) int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.carried[w]
}

// Slowest is the longest time that anything took in a direction since somebody has set it, who has not taken it back.
func (n *Net) Slowest(by string, w Way) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.layers[w] {
		if l.by == by {
			return l.slowest
		}
	}
	return 0
}

// delivered counts what is about to be delivered, and was sent at a time.
func (n *Net) delivered(w Way, bytes int, sent time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.carried[w] += int64(bytes)
	for _, l := range n.layers[w] {
		l.slowest = max(l.slowest, time.Since(sent))
	}
}

// lost is by how much something comes late that is sent now.
func (n *Net) lost(w Way) (late time.Duration) {
	state, _ := n.at(w)
	for again := Resend; state.Loss > 0 && rand.Float64() < state.Loss && again < 16*Resend; again *= 2 {
		late += again
	}
	return late
}

// at is a direction's state, and what is closed when it may be another one.
func (n *Net) at(w Way) (s State, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.layers[w] {
		s = State{Cut: s.Cut || l.state.Cut, Delay: max(s.Delay, l.state.Delay), Loss: max(s.Loss, l.state.Loss)}
	}
	return s, n.changed
}

// pass waits until what was sent at a time may be delivered. It is false when gone is closed before.
func (n *Net) pass(w Way, sent time.Time, gone <-chan struct{}) bool {
	for {
		state, changed := n.at(w)
		left := time.Until(sent.Add(state.Delay))
		if !state.Cut && left <= 0 {
			return true
		}
		var due <-chan time.Time
		if !state.Cut {
			due = time.After(left)
		}
		select {
		case <-due:
		case <-changed:
		case <-gone:
			return false
		}
	}
}
