package boottime

import "testing"

// It goes on, from an origin that stays.
func TestNow(t *testing.T) {
	first := Now()
	if second := Now(); first <= 0 || second < first {
		t.Errorf("%v, then %v", first, second)
	}
}
