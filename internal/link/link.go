// Package link carries TCP connections between processes on one machine as a network does that can be cut, slowed down
// and mended, one direction at a time. Whoever is to be reached through it is given the address of a [Cable] instead of
// the other's own; who dials is told apart by the cable it was given, or by what it says first.
package link

import (
	"math/rand/v2"
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

// Net is all directions. It is safe for use by many goroutines.
type Net struct {
	mu      sync.Mutex            // guards the rest
	states  map[Way]map[any]State // by who has set it
	changed chan struct{}         // closed at the next change
	carried map[Way]int64
	slowest map[Way]time.Duration
}

// New is a network that is whole.
func New() *Net {
	return &Net{states: map[Way]map[any]State{}, changed: make(chan struct{}), carried: map[Way]int64{}, slowest: map[Way]time.Duration{}}
}

// Set changes a direction, for connections that are open too.
func (n *Net) Set(w Way, s State) { n.SetFor(nil, w, s) }

// SetFor is Set on behalf of somebody, beside whom others change directions at the same time: the direction is cut if it is
// for any of them, and otherwise has the longest of their delays and the largest of their losses. An empty state takes
// back what the same one has set.
func (n *Net) SetFor(who any, w Way, s State) {
	n.change(func() {
		if s == (State{}) {
			delete(n.states[w], who)
			return
		}
		if n.states[w] == nil {
			n.states[w] = map[any]State{}
		}
		n.states[w][who] = s
		delete(n.slowest, w)
	})
}

// Heal makes every direction whole.
func (n *Net) Heal() { n.change(func() { clear(n.states) }) }

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

// Slowest is the longest time that anything took in a direction since somebody last set it to something.
func (n *Net) Slowest(w Way) time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.slowest[w]
}

// delivered counts what is about to be delivered, and was sent at a time.
func (n *Net) delivered(w Way, bytes int, sent time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.carried[w] += int64(bytes)
	n.slowest[w] = max(n.slowest[w], time.Since(sent))
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
func (n *Net) at(w Way) (State, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all State
	for _, s := range n.states[w] {
		all.Cut = all.Cut || s.Cut
		all.Delay, all.Loss = max(all.Delay, s.Delay), max(all.Loss, s.Loss)
	}
	return all, n.changed
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
