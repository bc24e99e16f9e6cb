package main

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
)

func TestCSVRate(t *testing.T) {
	names := `"test","rps","avg_latency_ms"` + "\n"
	if got, err := csvRate(names + `"GET app:__rand_int__:k","71710.28","0.512"` + "\n"); got != 71710.28 || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", names, "GET: 71710.28 requests per second\n", names + `"GET","many","0.512"` + "\n"} {
		if got, err := csvRate(bad); err == nil {
			t.Errorf("%q is %v, want an error", bad, got)
		}
	}
}

func TestReplaced(t *testing.T) {
	if got := replaced(randomKey, 42); got != "app:000000000042:k" {
		t.Errorf("%q is not what redis-benchmark sends", got)
	}
}

func TestProcessorTime(t *testing.T) {
	if _, err := processorTime(os.Getpid()); err != nil {
		t.Error(err)
	}
	if _, err := processorTime(-1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v of no process", err)
	}
}

// An answer that is not the one wanted is found wherever it stands.
func TestExchange(t *testing.T) {
	for last, wants := range map[string]string{"+OWNED\r\n": "", "+UNKNOWN": "UNKNOWN", "-ERR no\r\n": "ERR no"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- answerEach(l, 3, "+OWNED\r\n", last) }()
		err = exchange(t.Context(), l.Addr().String(), 3, func(int) []string { return []string{"A"} }, "+OWNED\r\n")
		if (err == nil) != (wants == "") || err != nil && !strings.Contains(err.Error(), wants) {
			t.Errorf("the last answer %q: %v, want one with %q", last, err, wants)
		}
		if err := errors.Join(<-served, l.Close()); err != nil {
			t.Error(err)
		}
	}
}

// answerEach answers n commands of one word, the last of them in its own way.
func answerEach(l net.Listener, n int, each, last string) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	r := bufio.NewReader(c)
	for i := range n {
		for range 3 { // lines of a command
			if _, err := r.ReadString('\n'); err != nil {
				return errors.Join(err, c.Close())
			}
		}
		if i == n-1 {
			each = last
		}
		if _, err := io.WriteString(c, each); err != nil {
			return errors.Join(err, c.Close())
		}
	}
	return c.Close()
}

// Neither of two measurements always goes first, and after an error nothing is measured.
func TestInTurn(t *testing.T) {
	var order string
	step := func(name string) func() error {
		return func() error { order += name; return nil }
	}
	for round := range 4 {
		if err := inTurn(round, step("a"), step("b")); err != nil {
			t.Error(err)
		}
	}
	if order != "abbaabba" {
		t.Errorf("the order was %s", order)
	}
	broken := func() error { return io.ErrClosedPipe }
	for round := range 2 {
		order = ""
		if err := inTurn(round, broken, broken); !errors.Is(err, io.ErrClosedPipe) || order != "" {
			t.Errorf("%v, and then %q", err, order)
		}
	}
	if err := inTurn(1, step("a"), broken); !errors.Is(err, io.ErrClosedPipe) || order != "" {
		t.Errorf("%v, and then %q", err, order)
	}
}
