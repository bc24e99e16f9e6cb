package main

import (
	"strings"
	"testing"
)

// What go test prints becomes a table; a benchmark that did not run is no table.
func TestGuards(t *testing.T) {
	var said strings.Builder
	said.WriteString("goos: linux\npkg: x/client\n")
	for range guardRounds {
		said.WriteString("BenchmarkGuardWrite/lease=false      \t 100\t 90.5 ns/op\t 0 B/op\t 0 allocs/op\n" +
			"BenchmarkGuardWrite/lease=false-2    \t 100\t 60 ns/op\t 0 B/op\t 0 allocs/op\n" +
			"BenchmarkGuardWrite/lease=true       \t 100\t 1000 ns/op\t 0 B/op\t 1 allocs/op\n" +
			"BenchmarkGuardWrite/lease=true-2     \t 100\t 600 ns/op\t 0 B/op\t 1 allocs/op\n" +
			"BenchmarkClock                       \t 100\t 400 ns/op\t 0 B/op\t 0 allocs/op\n")
	}
	clock := strings.Repeat("BenchmarkClock-2  \t 100\t 200 ns/op\t 0 B/op\t 0 allocs/op\n", guardRounds)
	for _, c := range []struct{ said, want string }{
		{said.String() + clock + "PASS\n", "| `Write` with a lease | 1000 (1000 – 1000) | 600 (600 – 600) | 1 | 1050 / 650 |\n"},
		{said.String(), "benchmark Clock ran 5 times on one core and 0 on two"},
	} {
		all, err := readBenched(strings.NewReader(c.said))
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		got := ""
		if err := reportGuards(&report{to: &out}, all); err != nil {
			got = err.Error()
		}
		if got += out.String(); !strings.Contains(got, c.want) {
			t.Errorf("%s\nwant %s", got, c.want)
		}
	}
}
