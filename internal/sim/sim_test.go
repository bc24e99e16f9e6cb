package sim

import (
	"fmt"
	"os"
	"strconv"
	"testing"
)

func TestOne(t *testing.T) {
	seed := uint64(1)
	if s := os.Getenv("SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	o := Trace(seed)
	n, _ := strconv.Atoi(os.Getenv("TAIL"))
	if n > 0 {
		for _, l := range o.Trace[max(0, len(o.Trace)-n):] {
			fmt.Println(l)
		}
	}
	fmt.Println(o.Events, o.Violation)
	for k, v := range o.Counts {
		fmt.Println("  ", v, k)
	}
}

func TestMany(t *testing.T) {
	from, n := 1, 50
	if s := os.Getenv("FROM"); s != "" {
		from, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("N"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	events := 0
	bad := map[string]int{}
	counts := map[string]int{}
	for i := from; i < from+n; i++ {
		o := Run(uint64(i))
		events += o.Events
		for k, v := range o.Counts {
			counts[k] += v
		}
		if o.Violation != nil {
			bad[o.Violation.Invariant]++
			if bad[o.Violation.Invariant] < 6 {
				fmt.Println(i, directedName(uint64(i)), o.Violation)
			}
		}
	}
	fmt.Println("events", events, "bad", bad)
	if os.Getenv("COUNTS") != "" {
		for k, v := range counts {
			fmt.Println("  ", v, k)
		}
	}
}

func directedName(seed uint64) string {
	if d := int(seed % uint64(2*len(directed))); d < len(directed) {
		return directed[d].name
	}
	return "walk"
}
