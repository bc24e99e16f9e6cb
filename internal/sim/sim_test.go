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
