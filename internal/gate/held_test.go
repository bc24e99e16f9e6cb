package gate

import (
	"bytes"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

const heldLine = "-QUIESCED records that came here are being staged or deleted under the key; nobody reads or writes it"

// Where a slice is staged or wiped nobody reads or writes, though the guard would let it, and no write is left in the count.
func TestHeldKeys(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Holds = func(key []byte) bool { return bytes.Contains(key, []byte("held")) } })
	u := r.user()
	const refusal = heldLine
	u.send("SET "+r.x("held")+" 1", "GET "+r.x("held"), "MSET "+r.x("a")+" 1 "+r.x("held")+" 2", "SET "+r.x("a")+" 3", "GET "+r.x("a"))
	u.gets(refusal, refusal, refusal, "+OK", "$1", "3")
	u.send("MULTI", "SET "+r.x("held")+" 1", "EXEC")
	u.gets("+OK", "+QUEUED", refusal)
	// The session could not be closed at the end of the test, were a write still counted.
}

// What is read in a transaction is asked for again at EXEC: a staging may have begun since it was queued.
func TestExecReadsWhatIsHeld(t *testing.T) {
	var held atomic.Bool
	r := newRig(t, func(c *Config) {
		c.Holds = func(key []byte) bool { return held.Load() && bytes.Contains(key, []byte(":o:")) }
	})
	read, both, other := r.user(), r.user(), r.user()
	read.send("MULTI", "GET "+r.o("a"))
	both.send("MULTI", "SET "+r.x("a")+" 1", "COPY "+r.o("a")+" "+r.x("b"))
	other.send("MULTI", "GET "+r.x("c"))
	read.gets("+OK", "+QUEUED")
	both.gets("+OK", "+QUEUED", "+QUEUED")
	other.gets("+OK", "+QUEUED")
	held.Store(true)
	for _, u := range []*user{read, both} {
		u.send("EXEC", "PING")
		u.gets(heldLine, "+PONG")
	}
	other.send("EXEC", "MULTI", "GET "+r.o("a"), "EXEC")
	other.gets("*1", "$-1", "+OK", heldLine, "-EXECABORT Transaction discarded because of previous errors.")
	if got := r.store.did(); slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, r.o("a")) || strings.HasPrefix(s, "SET") }) {
		t.Errorf("the store did %q", got)
	}
	held.Store(false)
	read.send("MULTI", "GET "+r.o("a"), "EXEC") // what was read before is forgotten
	read.gets("+OK", "+QUEUED", "*1", "$-1")
}

// A read that waits in the store is released when what it waits for is on its way here.
func TestParkedReadIsReleased(t *testing.T) {
	var held atomic.Bool
	turned := make(chan struct{})
	r := newRig(t, func(c *Config) {
		c.Holds = func(key []byte) bool { return held.Load() && bytes.Contains(key, []byte(":o:")) }
		c.Changed = func() <-chan struct{} {
			if held.Load() {
				return nil
			}
			return turned
		}
	})
	u, other := r.user(), r.user()
	other.send("XREAD BLOCK 0 STREAMS " + r.x("s") + " $")
	other.waits(r, r.x("s"))
	u.send("XREAD BLOCK 0 STREAMS "+r.o("s")+" $", "PING")
	r.eventually("both wait", func() error {
		if len(slices.DeleteFunc(r.store.did(), func(s string) bool { return !strings.HasPrefix(s, "XREAD") })) < 2 {
			return errNotYet
		}
		return nil
	})
	held.Store(true)
	close(turned)
	u.gets(heldLine, "+PONG")
	r.user().send("RPUSH " + r.x("s") + " e")
	other.gets("*2", "$"+itoa(len(r.x("s"))), r.x("s"), "$1", "e")
}
