package slices

import (
	"bufio"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/scope"
)

func TestPattern(t *testing.T) {
	for p, want := range map[scope.Prefix]string{"": "*", "app:": "app:*", `a*b?[c]^-d\`: `a\*b\?\[c\]\^\-d\\*`, "\x00\xff": "\x00\xff*"} {
		if got := pattern(p); got != want {
			t.Errorf("%q has the pattern %q, want %q", p, got, want)
		}
	}
}

func TestPace(t *testing.T) {
	now := time.Unix(0, 0)
	var slept time.Duration
	p := pace{rate: 1000, now: func() time.Time { return now }, sleep: func(_ context.Context, d time.Duration) error {
		slept += d
		now = now.Add(d)
		return nil
	}}
	for range 500 {
		if err := p.wait(t.Context(), 10); err != nil {
			t.Fatal(err)
		}
	}
	if slept < 5*time.Second-slack || slept > 5*time.Second {
		t.Errorf("5000 bytes at 1000 a second took %v", slept)
	}
	now = now.Add(time.Hour) // time that was not used is not made up for
	slept = 0
	for range 100 {
		_ = p.wait(t.Context(), 10)
	}
	if slept < time.Second-slack {
		t.Errorf("after a rest 1000 bytes took %v", slept)
	}
	if p = (pace{}); p.wait(t.Context(), 1<<30) != nil {
		t.Error("no rate is a rate")
	}
}

// TestSampleIsBounded: of many keys some are kept, those that are there last, whatever came before.
func TestSampleIsBounded(t *testing.T) {
	s := newSample()
	for i := range 5 * maxSample {
		s.take(client.Record{Key: []byte{byte(i), byte(i >> 8), byte(i >> 16)}, Value: []byte{1}, Expires: 7})
	}
	if n := len(s.keys); n > maxSample || n < maxSample/4 {
		t.Errorf("%d keys are kept", n)
	}
	for k, x := range s.keys {
		if x != (shape{"list", 7}) {
			t.Fatalf("%+v", x)
		}
		s.take(client.Record{Key: []byte(k), Deleted: true})
	}
	if len(s.keys) != 0 {
		t.Error("keys that are gone are kept")
	}
}

// TestAnswers: what the store says is read as it is, in both versions of the protocol, and nothing else is taken for it.
func TestAnswers(t *testing.T) {
	read := func(text string) (reply, error) {
		c := &conn{in: bufio.NewReader(strings.NewReader(text))}
		return c.read(nil)
	}
	for text, ok := range map[string]func(reply) bool{
		"+OK\r\n":            func(r reply) bool { return string(r.text) == "OK" },
		"-ERR no\r\n":        func(r reply) bool { return r.err() != nil && strings.Contains(r.err().Error(), "ERR no") },
		":-2\r\n":            func(r reply) bool { return r.n == -2 },
		"$-1\r\n":            func(r reply) bool { return r.null },
		"$3\r\na\r\n\r\n":    func(r reply) bool { return string(r.text) == "a\r\n" },
		"_\r\n":              func(r reply) bool { return r.null },
		"%1\r\n+a\r\n:1\r\n": func(r reply) bool { return len(r.items) == 2 },
		">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n": func(r reply) bool { return r.kind == '>' && string(r.items[1].items[0].text) == "k" },
	} {
		if r, err := read(text); err != nil || !ok(r) {
			t.Errorf("%q: %+v, %v", text, r, err)
		}
	}
	for _, text := range []string{"", "+", "\r\n", "x\r\n", "$x\r\n", "$2\r\nabc\r\n", "$1\r\na", "*1\r\n", "*2000000\r\n", strings.Repeat("*1\r\n", 20) + ":1\r\n", "HTTP/1.1 400\r\n"} {
		if r, err := read(text); err == nil {
			t.Errorf("%q is %+v", text, r)
		}
	}
	if r, err := read("$999999999999\r\n"); !errors.Is(err, errLong) || r.n != 999999999999 {
		t.Errorf("%+v, %v", r, err)
	}
}
