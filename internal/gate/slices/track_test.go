package slices

import (
	"bufio"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/scope-registry/scope-registry/client"
)

// TestTrackingRefused: a store that refuses a PING, as one that is busy with a script does, has lost the tracking at once.
func TestTrackingRefused(t *testing.T) {
	x := &tracking{push: &conn{in: bufio.NewReader(strings.NewReader("-BUSY a script runs\r\n+PONG\r\n"))}, ended: make(chan struct{}), pongs: make(chan struct{}, 1)}
	x.listen()
	if !errors.Is(x.lost, client.ErrTrackingLost) || !strings.Contains(x.lost.Error(), "BUSY") || len(x.pongs) != 0 {
		t.Errorf("%v, %d answers", x.lost, len(x.pongs))
	}
}

// TestTooManyLongKeys: of a slice with more long keys than are remembered none counts as short.
func TestTooManyLongKeys(t *testing.T) {
	x := &tracking{}
	s := &Store{tracks: map[string]*tracking{"m1": x}}
	long := map[string]struct{}{}
	for i := range longKeys {
		long[fmt.Sprint(i)] = struct{}{}
	}
	s.weighed("m2", long) // that nobody tracks
	long["one more"] = struct{}{}
	if s.weighed("m1", long); x.long != nil {
		t.Errorf("%d long keys are remembered", len(x.long))
	}
	delete(long, "one more")
	if s.weighed("m1", long); len(x.long) != longKeys {
		t.Errorf("%d long keys are remembered", len(x.long))
	}
}
