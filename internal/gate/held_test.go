package gate

import (
	"bytes"
	"testing"
)

// Where a slice is staged or wiped nobody reads or writes, though the guard would let it, and no write is left in the count.
func TestHeldKeys(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Holds = func(key []byte) bool { return bytes.Contains(key, []byte("held")) } })
	u := r.user()
	const refusal = "-QUIESCED records that came here are being staged or deleted under the key; nobody reads or writes it"
	u.send("SET "+r.x("held")+" 1", "GET "+r.x("held"), "MSET "+r.x("a")+" 1 "+r.x("held")+" 2", "SET "+r.x("a")+" 3", "GET "+r.x("a"))
	u.gets(refusal, refusal, refusal, "+OK", "$1", "3")
	u.send("MULTI", "SET "+r.x("held")+" 1", "EXEC")
	u.gets("+OK", "+QUEUED", refusal)
	// The session could not be closed at the end of the test, were a write still counted.
}
