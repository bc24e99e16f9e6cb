package respapi

import (
	"bytes"
	"strings"
	"testing"
)

// TestErrorsRepeatLittle holds an error to what fits a line of a log, whatever the client sent.
func TestErrorsRepeatLittle(t *testing.T) {
	long := bytes.Repeat([]byte("k"), maxShown+1)
	if got := shown(long); got != strings.Repeat("k", maxShown)+"…" {
		t.Errorf("of %d bytes %q is shown", len(long), got)
	}
	if got := shown(long[1:]); got != strings.Repeat("k", maxShown) {
		t.Errorf("of %d bytes %q is shown", maxShown, got)
	}
	args := [][]byte{[]byte("GET")}
	for range 60 {
		args = append(args, long)
	}
	if got := len(unknownCommand(args).Error()); got > 4*maxShown {
		t.Errorf("an error of %d bytes about %d arguments", got, len(args))
	}
}
