package registry

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/transport/peer"
)

// slowly is a transport whose requests take a time until they are written, if they are, and then stay without an answer.
type slowly struct {
	peer.Transport
	wires  *wires
	takes  time.Duration
	err    error // instead of writing
	ending chan struct{}
}

func (s *slowly) Close() error { return nil }

func (s *slowly) AppendEntries(_ raft.ServerID, to raft.ServerAddress, _ *raft.AppendEntriesRequest, _ *raft.AppendEntriesResponse) error {
	select {
	case <-time.After(s.takes):
	case <-s.ending:
		return nil
	}
	if s.err != nil {
		return s.err
	}
	s.wires.wrote(to)
	<-s.ending
	return nil
}

// A leader stores once its new entries are on their way to every follower, one after the other. It does not wait for the
// answers, nor for a follower that takes nothing, nor for one that cannot be reached.
func TestEntriesGoOutBeforeTheStore(t *testing.T) {
	const soon = sendPatience / 10
	for what, c := range map[string]struct {
		takes, wants time.Duration
		err          error
	}{
		"both take it":          {takes: soon, wants: 2 * soon},
		"neither takes it":      {takes: time.Hour, wants: 2 * sendPatience},
		"neither can be dialed": {takes: soon, wants: 2 * soon, err: errors.New("refused")},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWires(nil)
			inner := &slowly{wires: w, takes: c.takes, err: c.err, ending: make(chan struct{})}
			n := noticesBefore(t, inner, w)
			n.of(leads{7, 4, 8}, yes)
			for _, id := range []raft.ServerID{"s2", "s3"} {
				n.to[id] = &follower{target: raft.ServerAddress(id + ":1"), request: *after(8, 4)}
			}
			began := time.Now()
			n.sendAhead([]*raft.Log{entry(9, 4)})
			if took := time.Since(began); took != c.wants {
				t.Errorf("%s: the store waited for %v, want %v", what, took, c.wants)
			}
			close(inner.ending)
			n.wg.Wait()
		})
	}
}

// oneConn is a layer that dials this.
type oneConn struct {
	raft.StreamLayer
	conn net.Conn
	err  error
}

func (o oneConn) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) { return o.conn, o.err }

func told(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// The first write to an address is told of, to the last who asked.
func TestWires(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	w := newWires(oneConn{conn: here})
	conn, err := w.Dial("s2:1", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	earlier := w.next("s2:1")
	first, other := w.next("s2:1"), w.next("s3:1")
	for i := range 2 {
		read := make(chan error, 1)
		go func() {
			_, err := there.Read(make([]byte, 8))
			read <- err
		}()
		_, err := conn.Write([]byte("request"))
		if err := errors.Join(err, <-read); err != nil {
			t.Fatal(err)
		}
		if got, want := told(first), i == 0; got != want {
			t.Errorf("told after write %d: %v, want %v", i+1, got, want)
		}
	}
	if told(earlier) || told(other) {
		t.Error("told who asked before, or of another address")
	}
	cut := errors.New("cut")
	w.StreamLayer = oneConn{err: cut}
	if _, err := w.Dial("s2:1", time.Second); !errors.Is(err, cut) {
		t.Errorf("dialing: %v, want %v", err, cut)
	}
	if none := (*wires)(nil); none.next("s2:1") != nil {
		t.Error("a transport without wires is waited for")
	} else {
		none.wrote("s2:1")
	}
}
