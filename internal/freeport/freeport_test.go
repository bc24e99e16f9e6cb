package freeport

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestAddrs: the addresses differ, also those of two calls, and are not those
// that the kernel chooses. One that somebody listens on is left out.
func TestAddrs(t *testing.T) {
	seen := map[string]bool{}
	for range 10 {
		addrs, err := Addrs(2)
		if err != nil {
			t.Fatal(err)
		}
		for _, addr := range addrs {
			l, err := net.Listen("tcp", addr)
			if err != nil || seen[addr] {
				t.Fatalf("%s: %v, seen %t", addr, err, seen[addr])
			}
			seen[addr] = true
			port := l.Addr().(*net.TCPAddr).Port
			if port < first || port >= first+ports {
				t.Errorf("port %d", port)
			}
			_ = l.Close()
		}
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+given.next%ports))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	if addrs, err := Addrs(1); err != nil || addrs[0] == l.Addr().String() {
		t.Errorf("%v, %v, and %s was taken", addrs, err, l.Addr())
	}
}

// startEnv has the test's own program, as another process, begin at this count of ports.
const startEnv = "FREEPORT_TEST_START"

// TestOtherProcess: another process that begins at the same port is not given what
// this one was given, although nobody listens there.
func TestOtherProcess(t *testing.T) {
	if at := os.Getenv(startEnv); at != "" {
		if _, err := fmt.Sscan(at, &given.next); err != nil {
			t.Fatal(err)
		}
		addrs, err := Addrs(1)
		fmt.Printf("other: %v %v\n", addrs, err)
		return
	}
	start := given.next
	ours, err := Addrs(2)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOtherProcess$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", startEnv, start))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	line, _, _ := strings.Cut(string(out), "\n")
	if !strings.HasPrefix(line, "other: [127.0.0.1:") || strings.Contains(line, ours[0]) || strings.Contains(line, ours[1]) {
		t.Errorf("this process was given %v, the other one said %q", ours, line)
	}
}
