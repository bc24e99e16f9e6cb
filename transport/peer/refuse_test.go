package peer

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// A server that is not to be served gets no connection for raft, loses those that it has, and can still be told by a call.
func TestServersThatAreRefused(t *testing.T) {
	var out atomic.Bool
	a := openMux(t, "a", func(cfg *Config) {
		cfg.Refuse = func(id string) string {
			if id == "b" && out.Load() {
				return "you were removed"
			}
			return ""
		}
	})
	b, c := openMux(t, "b", nil), openMux(t, "c", nil)
	layer := a.StreamLayer()
	dial := func(from *Mux) (net.Conn, error) {
		return from.StreamLayer().Dial(raft.ServerAddress(a.addr()), time.Second)
	}
	accept := func() net.Conn {
		t.Helper()
		conn, err := layer.Accept()
		if err != nil {
			t.Fatal(err)
		}
		return conn
	}
	had, err := dial(b)
	if err != nil {
		t.Fatal(err)
	}
	_ = accept()
	kept, err := dial(c)
	if err != nil {
		t.Fatal(err)
	}
	theirs := accept()

	out.Store(true)
	var refused *RefusedError
	if _, err := dial(b); !errors.As(err, &refused) || !strings.Contains(err.Error(), "you were removed") {
		t.Fatalf("got %v", err)
	}
	if _, err := b.Call(t.Context(), a.addr(), KindHello, nil); err != nil {
		t.Errorf("a call: %v", err)
	}
	a.Expel("b")
	if _, err := had.Read(make([]byte, 1)); err == nil {
		t.Error("the connection from before lives on")
	}
	go func() { _, _ = theirs.Write([]byte{7}) }()
	got := make([]byte, 1)
	if _, err := io.ReadFull(kept, got); err != nil || got[0] != 7 {
		t.Errorf("the connection of another server ended: %v", err)
	}
	if _, err := b.Call(t.Context(), a.addr(), KindHello, nil); err != nil {
		t.Errorf("a call after it was expelled: %v", err)
	}
}
