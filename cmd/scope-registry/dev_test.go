package main

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

// The port of one server is held: the error names it, and says nothing of the servers that waited for that one in vain.
func TestStartAllSaysTheCause(t *testing.T) {
	cfgs, err := devConfigs(t.TempDir(), true, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	taken := cfgs[1].Peers[1].Addr
	l, err := net.Listen("tcp", taken)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	servers, err := startAll(ctx, cfgs)
	if err == nil {
		closeAll(servers)
	}
	if err == nil || !strings.Contains(err.Error(), taken) || strings.Contains(err.Error(), "bootstrap") || strings.Contains(err.Error(), context.Canceled.Error()) {
		t.Errorf("with %s held: %v", taken, err)
	}
}
