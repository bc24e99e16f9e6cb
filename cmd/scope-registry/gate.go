package main

import (
	"cmp"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/certs"
	"github.com/scope-registry/scope-registry/internal/gate/upstream"
	"github.com/scope-registry/scope-registry/scope"
	"github.com/scope-registry/scope-registry/transport"
)

const defaultGatePort = "6004"

// gateFlags are the flags of gate.
type gateFlags struct {
	node, listen, addr, dataDir, http, pprof, unscoped, logLevel string
	store                                                        upstream.Config
	grace, giveUp                                                time.Duration
	rate                                                         int64
	clients, pipes                                               int
	replace, register, plain, insecure, requireCerts, logJSON    bool
}

func (c *cli) gateCmd() *cobra.Command {
	var o gateFlags
	cmd := &cobra.Command{
		Use: "gate", Short: "Stand in front of a Redis-protocol server, and let in what its node may write",
		Long: `Stand in front of one Redis-protocol server (Redis, Valkey, kevy) until SIGTERM or
Ctrl-C. Clients speak to the gate as to the server. A write goes through if this node
owns its keys now; else it is answered with MISDIRECTED and the writer's address, or
with QUIESCED while the scope moves. When an operator moves a scope, its keys travel
from gate to gate.
A store has one gate, and a gate has one data directory, which belongs to the data of
the store. Nobody else may reach the store: close it with a firewall, or with the lines
for its access control in docs/gate.md. Every flag may also stand in the environment
(--data-dir as ` + envPrefix + `DATA_DIR).
With --cert, --key and --cacert clients come over TLS; the certificate is that of the
node, and the registry's servers are asked with it too.
Exit 4: the store is held by another gate. Exit 5: the store was gone for --give-up-after.`,
		Example: "  scope-registry gate --node embed-billing-1 --listen 127.0.0.1:6004 --upstream 127.0.0.1:6379 \\\n" +
			"    --data-dir data/embed-billing-1 --endpoints http://127.0.0.1:7481,http://127.0.0.1:7491,http://127.0.0.1:7501",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fillFrom(cmd.Flags(), nil, ""); err != nil {
				return err
			}
			cfg, err := o.gate(c)
			if err != nil {
				return err
			}
			return c.gate(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.node, "node", "", "the node that the store belongs to")
	f.StringVar(&o.dataDir, "data-dir", "", "directory of this gate alone, as old as the store's data")
	f.StringVar(&o.listen, "listen", "127.0.0.1:"+defaultGatePort, "address to listen on for clients, and for other gates that send slices")
	f.StringVar(&o.addr, "addr", "", "host:port at which clients and other gates reach this one (default: the one it listens on)")
	f.BoolVar(&o.register, "register", true, "declare the node with its address")
	f.StringVar(&o.store.Addr, "upstream", "127.0.0.1:6379", "the store's host:port")
	f.StringVar(&o.store.User, "upstream-user", "", "user to authenticate as at the store (default: the store's default user)")
	f.StringVar(&o.store.PasswordFile, "upstream-password-file", "", "file with that user's password")
	f.BoolVar(&o.store.TLS, "upstream-tls", false, "reach the store over TLS")
	f.StringVar(&o.store.CA, "upstream-cacert", "", "authorities of the store's certificate, in PEM (default: the system's)")
	f.StringVar(&o.store.Cert, "upstream-cert", "", "certificate to show to the store, in PEM")
	f.StringVar(&o.store.Key, "upstream-key", "", "its private key")
	f.DurationVar(&o.giveUp, "give-up-after", 0, "end, and give the session up, when the store has not answered for so long, so that fallbacks take over; 0 keeps the session")
	f.StringVar(&o.unscoped, "unscoped", "accept", "what becomes of writes to keys in no scope: accept or refuse")
	f.BoolVar(&o.replace, "replace", false, "delete what the store holds under the prefix of a slice that comes here; without it such a move is aborted")
	f.DurationVar(&o.grace, "grace", time.Hour, "how long an old copy is kept after a move")
	f.Int64Var(&o.rate, "rate", 0, "bytes a second that the first pass of a move may read; 0 is no bound")
	f.IntVar(&o.clients, "clients", 0, "clients at one time (default 10000)")
	f.IntVar(&o.pipes, "pipes", 1, "connections to the store that clients share")
	f.StringVar(&o.http, "http", "", "serve /healthz, /readyz and /metrics at this address; off if empty")
	f.StringVar(&o.pprof, "pprof", "", "serve Go's profiles at this loopback address; off if empty")
	f.BoolVar(&o.plain, "plain", false, "with TLS, take clients without it too")
	f.BoolVar(&o.requireCerts, "require-client-certs", false, "with TLS, let nobody connect without a client certificate")
	f.BoolVar(&o.insecure, "insecure", false, "allow addresses that others can reach, though the gate does not ask who they are")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&o.logJSON, "log-json", false, "log JSON lines")
	return cmd
}

// gateConfig is a gate that may be started.
type gateConfig struct {
	gateFlags
	certs *certs.Source // nil is no TLS
	files client.TLS    // of certs
	log   *slog.Logger
}

// gate turns the flags into a configuration.
func (o gateFlags) gate(c *cli) (gateConfig, error) {
	cfg := gateConfig{gateFlags: o}
	if o.node == "" || o.dataDir == "" {
		return cfg, invalid("gate needs --node and --data-dir; see scope-registry gate --help")
	}
	if err := scope.NodeID(o.node).Check(); err != nil {
		return cfg, invalid("--node: %v", err)
	}
	if o.unscoped != "accept" && o.unscoped != "refuse" {
		return cfg, invalid("--unscoped %q is not known; use accept or refuse", o.unscoped)
	}
	for name, n := range map[string]int64{"--rate": o.rate, "--clients": int64(o.clients), "--pipes": int64(o.pipes), "--give-up-after": int64(o.giveUp), "--grace": int64(o.grace)} {
		if n < 0 {
			return cfg, invalid("%s is less than nothing; see scope-registry gate --help", name)
		}
	}
	if _, _, err := net.SplitHostPort(o.addr); o.addr != "" && err != nil {
		return cfg, invalid("--addr %q is not host:port, like db1.example.net:%s", o.addr, defaultGatePort)
	}
	// Who speaks for the store is not known before the data dir is this process's; the rest can be wrong now.
	check := o.store
	check.Node, check.Identity = o.node, o.node
	if err := check.Check(); err != nil {
		return cfg, invalid("%v", err)
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return cfg, invalid("--log-level %q is not known; use debug, info, warn or error", o.logLevel)
	}
	how := &slog.HandlerOptions{Level: level}
	cfg.log = slog.New(slog.NewTextHandler(c.err, how))
	if o.logJSON {
		cfg.log = slog.New(slog.NewJSONHandler(c.err, how))
	}
	if err := cfg.secure(c); err != nil {
		return cfg, err
	}
	err := cfg.checkListeners()
	return cfg, err
}

// secure opens the node's certificate, if there is one.
func (g *gateConfig) secure(c *cli) error {
	given := func(flag, name string) string { return cmp.Or(flag, os.Getenv(envPrefix+name)) }
	files := certs.Files{Cert: given(c.cert, "CERT"), Key: given(c.key, "KEY"), CA: given(c.cacert, "CACERT")}
	if files.Cert == "" && files.Key == "" {
		if g.requireCerts || g.plain {
			return invalid("--require-client-certs and --plain need TLS; give --cert, --key and --cacert")
		}
		return nil
	}
	own, err := certs.Open(files, hclog.NewNullLogger())
	if err != nil {
		return invalid("%v", err)
	}
	if who := own.Who(); who.Role != access.Node || who.ID != g.node {
		return invalid("certificate %s is that of %s, and this is the gate of node %q; give the one of node/%s, or the right --node", files.Cert, who, g.node, g.node)
	}
	g.certs, g.files = own, client.TLS{CA: files.CA, Cert: files.Cert, Key: files.Key}
	return nil
}

// checkListeners refuses addresses that others can reach. TLS alone opens none: a gate knows nobody, and whoever gets through
// is the gate's own user to the store.
func (g *gateConfig) checkListeners() error {
	known := g.certs != nil && g.requireCerts && !g.plain
	if err := transport.CheckListener("--listen", g.listen, true); err != nil {
		return invalid("%v", err)
	}
	if !known && !g.insecure && transport.CheckListener("--listen", g.listen, false) != nil {
		return invalid("--listen %s can be reached from other machines, and the gate does not ask clients who they are; give --cert, --key, --cacert and --require-client-certs, "+
			"bind a loopback address such as 127.0.0.1:%s, or add --insecure if everybody who can reach this address may write", g.listen, defaultGatePort)
	}
	for flag, addr := range map[string]string{"--http": g.http, "--pprof": g.pprof} {
		if addr == "" {
			continue
		}
		if err := transport.CheckListener(flag, addr, g.insecure && flag == "--http"); err != nil {
			return invalid("%s %s: it is served without TLS, to anybody; give a loopback address such as 127.0.0.1:6005", flag, addr)
		}
	}
	return nil
}

// gateError gives an error of the start that has no code one.
func gateError(code api.Code, err error) error { return &api.Error{Code: code, Detail: err.Error()} }
