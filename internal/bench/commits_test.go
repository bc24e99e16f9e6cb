package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/internal/process"
)

// slow is a system whose every change takes as long.
type slow struct {
	takes  time.Duration
	refuse string // the value that is refused

	mu     sync.Mutex // guards what follows
	now    map[int]bool
	values map[string]bool
	bad    []string
	open   int
}

func (s *slow) connect(context.Context) (changer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	return s, nil
}

func (s *slow) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	return nil
}

func (s *slow) change(ctx context.Context, id int, value string) error {
	s.mu.Lock()
	if s.now[id] || s.values[value] || len(value) != valueBytes || id < 0 || id >= changedIDs {
		s.bad = append(s.bad, value)
	}
	s.now[id], s.values[value] = true, true
	s.mu.Unlock()
	err := process.Sleep(ctx, s.takes)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.now, id)
	if value == s.refuse {
		return errors.New("refused")
	}
	return err
}

func (s *slow) committing() *committing {
	s.now, s.values = map[int]bool{}, map[string]bool{}
	var used time.Duration
	return &committing{name: "slow", connect: s.connect, cpu: func() (time.Duration, error) {
		used += 3200 * time.Millisecond
		return used, nil
	}}
}

// What is measured is what was answered in the turn, and each client has one change
// in flight, of an id that no other has.
func TestCommitsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{takes: 10 * time.Millisecond}
		got, err := s.committing().turn(t.Context(), 16, 2*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		got.inSelf = 0 // of this process
		if want := (turn{rate: 1600, p50: s.takes, p99: s.takes, inServer: time.Millisecond}); got != want {
			t.Errorf("measured %+v, want %+v", got, want)
		}
		if len(s.bad) > 0 || len(s.values) != 16*250 || s.open != 0 {
			t.Errorf("%d changes, wrong ones %q, %d clients left open", len(s.values), s.bad, s.open)
		}
	})
}

func TestCommitsTurnFails(t *testing.T) {
	for _, c := range []struct {
		s    *slow
		want string
	}{
		{&slow{takes: time.Millisecond, refuse: addressed(20)}, "client "},
		{&slow{takes: time.Hour}, "not all had their last answer 10s after the turn"},
		{&slow{takes: 3 * time.Second}, "no change was answered in 1s"},
	} {
		synctest.Test(t, func(t *testing.T) {
			_, err := c.s.committing().turn(t.Context(), 16, time.Second)
			if err == nil || !strings.Contains(err.Error(), c.want) || c.s.open != 0 {
				t.Errorf("%v, want %q; %d clients left open", err, c.want, c.s.open)
			}
		})
	}
}

// A refused change would be a fast one.
func TestRESPChanger(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const want = "*5\r\n$5\r\nSCOPE\r\n$4\r\nNODE\r\n$3\r\nSET\r\n$9\r\nnode-0007\r\n$3\r\nh:1\r\n"
	var asked sync.WaitGroup
	asked.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		for _, answer := range []string{"+OK\r\n", "-LIMIT too many\r\n"} {
			got := make([]byte, len(want))
			if _, err := io.ReadFull(in, got); err != nil || string(got) != want {
				t.Errorf("sent %q, %v", got, err)
			}
			if _, err := io.WriteString(conn, answer); err != nil {
				t.Error(err)
			}
		}
	})
	c, err := dialRESP(t.Context(), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.change(t.Context(), 7, "h:1"); err != nil {
		t.Error(err)
	}
	if err := c.change(t.Context(), 7, "h:1"); err == nil || !strings.Contains(err.Error(), "LIMIT too many") {
		t.Errorf("a refusal gives %v", err)
	}
	asked.Wait()
	if err := c.close(); err != nil {
		t.Error(err)
	}
}

func TestReportCommits(t *testing.T) {
	ours, other := &committing{name: "ours", turns: map[int][]turn{}}, &committing{name: "other", turns: map[int][]turn{}}
	for _, load := range commitLoads {
		ours.turns[load.clients] = []turn{{3000, 2 * time.Millisecond, 6 * time.Millisecond, time.Millisecond, 0}, {1000, 4 * time.Millisecond, 5 * time.Millisecond, time.Millisecond, 0}, {2000, 3 * time.Millisecond, 4 * time.Millisecond, time.Millisecond, 0}}
		other.turns[load.clients] = []turn{{1000, 4 * time.Millisecond, 8 * time.Millisecond, 0, 0}, {1000, 4 * time.Millisecond, 10 * time.Millisecond, 0, 0}, {1000, 4 * time.Millisecond, 16 * time.Millisecond, 0, 0}}
	}
	var out strings.Builder
	reportCommits(&report{to: &out}, []*committing{ours}, []*committing{other}, options{rounds: 3, turn: time.Second})
	for _, want := range []string{
		"| 64 | ours | 2000 (1000 – 3000) | 3.00 (2.00 – 4.00) | 5.00 (4.00 – 6.00) | 1000 (1000 – 1000) | 0 (0 – 0) |\n",
		"| 64 | ours | 2.00 (1.00 – 3.00) | 2.2 | 0.75 (0.50 – 1.00) | 0.50 (0.25 – 0.75) | 0.5 |\n",
		"| 1 | ours | 2.00 (1.00 – 3.00) | 0.8 | 0.75 (0.50 – 1.00) | 0.50 (0.25 – 0.75) |  |\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no line %s in\n%s", want, out.String())
		}
	}
}
