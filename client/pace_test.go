package client

import (
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/boottime"
)

// A pace reads the clock once until Next, and then finds the lease ended: nothing more is admitted, and what was is not
// acknowledged.
func TestPaceReadsTheClockOnce(t *testing.T) {
	guard := benchGuard(t, true)
	readings, late := 0, time.Duration(0)
	guard.clock = func() time.Duration {
		readings++
		return boottime.Now() + late
	}
	p := guard.Pace()
	key := []byte("p00001:k")
	var admitted []Admitted
	for range 10 {
		w, err := p.Admit(key)
		if err == nil {
			err = p.Check(&w)
		}
		if err != nil {
			t.Fatal(err)
		}
		admitted = append(admitted, w)
	}
	if w, err := p.AdmitKeys([][]byte{key, []byte("p00001:l")}); err != nil {
		t.Error(err)
	} else {
		w.Done()
	}
	if readings != 1 {
		t.Errorf("the clock was read %d times", readings)
	}
	late = 2 * benchLease
	p.Next()
	for i := range admitted {
		wants(t, p.Check(&admitted[i]), ErrOutcomeUnknown)
		admitted[i].Done()
	}
	_, err := p.Admit(key)
	wants(t, err, ErrLeaseLost)
	if readings != 2 {
		t.Errorf("the clock was read %d times", readings)
	}
	if !guard.adm.Idle() {
		t.Error("writes count that are done")
	}
}
