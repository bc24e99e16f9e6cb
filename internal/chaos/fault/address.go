package fault

import (
	"net/netip"
	"strings"
)

// compareAddresses orders IP addresses by their value, and what is none by its text.
func compareAddresses(a, b string) int {
	x, errX := netip.ParseAddr(a)
	y, errY := netip.ParseAddr(b)
	if errX != nil || errY != nil {
		return strings.Compare(a, b)
	}
	return x.Compare(y)
}
