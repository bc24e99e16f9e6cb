package slices

import (
	"bufio"
	"errors"
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
