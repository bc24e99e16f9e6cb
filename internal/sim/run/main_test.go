package main

import (
	"strings"
	"testing"
)

func TestRunTellsWhatHappened(t *testing.T) {
	var out strings.Builder
	if code := runAll(&out, 1, 6, false); code != 0 || !strings.Contains(out.String(), "6 seeds in") || !strings.HasSuffix(out.String(), "no violation\n") {
		t.Errorf("exit %d: %s", code, out.String())
	}
	out.Reset()
	if code := runAll(&out, 1, 3, true); code != 0 || out.Len() != 0 {
		t.Errorf("quiet, and exit %d: %s", code, out.String())
	}
	if code := trace(&out, 4); code != 0 || !strings.Contains(out.String(), "ACTION") {
		t.Errorf("exit %d: %s", code, out.String())
	}
}
