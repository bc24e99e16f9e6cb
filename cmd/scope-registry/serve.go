package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/api"
	"github.com/scope-registry/scope-registry/internal/certs"
	"github.com/scope-registry/scope-registry/internal/registry"
)

const (
	defaultPeerPort = 7482
	defaultHTTPPort = 7481
	defaultRESPPort = 7480
	// noRESP is the value of --resp that leaves the front end out.
	noRESP = "off"
	// portStep separates the servers of one host.
	portStep = 10
	// envPrefix stands before a flag's name in the environment.
	envPrefix = "SCOPE_REGISTRY_"
)

// serveFlags are the flags of serve, which are the keys of its config file.
type serveFlags struct {
	id, dataDir, peer, http, resp, pprof, timing, logLevel, config string
	cluster                                                        []string
	insecure, logJSON, requireCerts                                bool
}

func (c *cli) serveCmd() *cobra.Command {
	var o serveFlags
	cmd := &cobra.Command{
		Use: "serve", Short: "Run one server",
		Long: `Run one server of the cluster until SIGTERM or Ctrl-C. All servers get the same
--cluster; at the first start they wait for each other. A server whose data directory
is empty, and whose --cluster names itself and a server of a cluster that was founded
without it, waits until somebody says: scope-registry cluster join. Later starts go by
what the cluster has agreed on, whatever --cluster says, but for this server's own
address. Every flag may also stand in the environment (--data-dir as
SCOPE_REGISTRY_DATA_DIR) or in the file of --config: flag > environment > file.
With --cert, --key and --cacert all its ports are under TLS 1.3; the certificate is that
of the server's id (scope-registry certs --help), and the files are read anew when they
change. Without, it listens on loopback alone.
Exit 9: the data directory is damaged. Exit 7: the server was removed.`,
		Example: "  scope-registry serve --id s1 --data-dir data/s1 --cluster s1=127.0.0.1:7482,s2=127.0.0.1:7492,s3=127.0.0.1:7502\n" +
			"  scope-registry serve --id s1 --data-dir data/s1 --cluster s1=db1:7482,s2=db2:7482,s3=db3:7482 \\\n" +
			"    --http 0.0.0.0:7481 --resp 0.0.0.0:7480 --cacert ca.pem --cert server-s1.pem --key server-s1.key",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := fillFlags(cmd.Flags(), o.config); err != nil {
				return err
			}
			cfg, err := o.server(c)
			if err != nil {
				return err
			}
			return c.serve(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.id, "id", "", "this server's id in --cluster")
	f.StringVar(&o.dataDir, "data-dir", "", "directory of this server alone")
	f.StringSliceVar(&o.cluster, "cluster", nil, "all servers, this one included, as id=host:port of their --peer")
	f.StringVar(&o.peer, "peer", "", "address to listen on for other servers (default: this server's in --cluster)")
	f.StringVar(&o.http, "http", "", "address to listen on for clients (default 127.0.0.1:7481, plus 10 for each server before this in --cluster on the same host)")
	f.StringVar(&o.resp, "resp", "", "address to listen on for Redis clients, or off (default 127.0.0.1:7480, plus 10 as for --http)")
	f.StringVar(&o.timing, "timing", "default", "how soon a silent leader is replaced: fast, default or wan")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.config, "config", "", "TOML file whose keys are these flags' names; flag > environment > file")
	f.BoolVar(&o.insecure, "insecure", false, "allow addresses that others can reach, without TLS")
	f.BoolVar(&o.requireCerts, "require-client-certs", false, "with TLS, let nobody connect without a client certificate")
	f.StringVar(&o.pprof, "pprof", "", "serve Go's profiles at this loopback address; off if empty")
	f.BoolVar(&o.logJSON, "log-json", false, "log JSON lines")
	return cmd
}

// fillFlags sets the flags that were not given from the environment, then from
// the file.
func fillFlags(fs *pflag.FlagSet, config string) error {
	if !fs.Changed("config") {
		config = os.Getenv(envPrefix + "CONFIG")
	}
	file, err := readConfig(fs, config)
	if err != nil {
		return err
	}
	return fillFrom(fs, file, config)
}

// fillFrom is fillFlags with a file that has been read; nil is none.
func fillFrom(fs *pflag.FlagSet, file map[string]string, config string) error {
	var first error
	fs.VisitAll(func(f *pflag.Flag) {
		if first != nil || f.Changed || f.Name == "config" || f.Name == "help" {
			return
		}
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, from := os.Getenv(name), name
		if value == "" {
			value, from = file[f.Name], config+": "+f.Name
		}
		if value == "" {
			return
		}
		if err := fs.Set(f.Name, value); err != nil {
			first = invalid("%s: %v", from, flagError(err))
		}
	})
	return first
}

// configFile are the keys of a config file.
type configFile struct {
	ID       *string `toml:"id"`
	DataDir  *string `toml:"data-dir"`
	Cluster  any     `toml:"cluster"` // "a=…,b=…", or an array of such
	Peer     *string `toml:"peer"`
	HTTP     *string `toml:"http"`
	RESP     *string `toml:"resp"`
	Timing   *string `toml:"timing"`
	LogLevel *string `toml:"log-level"`
	Insecure *bool   `toml:"insecure"`
	LogJSON  *bool   `toml:"log-json"`
	CACert   *string `toml:"cacert"`
	Cert     *string `toml:"cert"`
	Key      *string `toml:"key"`
	Require  *bool   `toml:"require-client-certs"`
	PProf    *string `toml:"pprof"`
}

func readConfig(fs *pflag.FlagSet, name string) (map[string]string, error) {
	if name == "" {
		return nil, nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, invalid("--config cannot be read: %v", err)
	}
	dec := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
	var cf configFile
	if err := dec.Decode(&cf); err != nil {
		return nil, configError(name, err)
	}
	out := map[string]string{}
	for key, v := range map[string]*string{"id": cf.ID, "data-dir": cf.DataDir, "peer": cf.Peer, "http": cf.HTTP, "resp": cf.RESP, "timing": cf.Timing, "log-level": cf.LogLevel,
		"cacert": cf.CACert, "cert": cf.Cert, "key": cf.Key, "pprof": cf.PProf} {
		if v != nil {
			out[key] = *v
		}
	}
	for key, v := range map[string]*bool{"insecure": cf.Insecure, "log-json": cf.LogJSON, "require-client-certs": cf.Require} {
		if v != nil {
			out[key] = strconv.FormatBool(*v)
		}
	}
	switch v := cf.Cluster.(type) {
	case nil:
	case string:
		out["cluster"] = v
	case []any:
		parts := make([]string, 0, len(v))
		for _, p := range v {
			parts = append(parts, fmt.Sprint(p))
		}
		out["cluster"] = strings.Join(parts, ",")
	default:
		return nil, invalid("%s: cluster must be a string or an array of strings", name)
	}
	return out, nil
}

func configError(name string, err error) error {
	var missing *toml.StrictMissingError
	if errors.As(err, &missing) && len(missing.Errors) > 0 {
		line, _ := missing.Errors[0].Position()
		return invalid("%s:%d: key %q is not known; the keys are the names of serve's flags", name, line, strings.Join(missing.Errors[0].Key(), "."))
	}
	var at *toml.DecodeError
	if errors.As(err, &at) {
		line, _ := at.Position()
		if key := strings.Join(at.Key(), "."); key != "" {
			return invalid("%s:%d: the value of %q is not of its kind; see scope-registry serve --help for --%s", name, line, key, key)
		}
		return invalid("%s:%d: %s", name, line, strings.TrimPrefix(at.Error(), "toml: "))
	}
	return invalid("%s: %v", name, err)
}

// server turns the flags into a server's configuration.
func (o serveFlags) server(c *cli) (serverConfig, error) {
	var cfg serverConfig
	if o.id == "" || o.dataDir == "" {
		return cfg, invalid("serve needs --id and --data-dir; see scope-registry serve --help")
	}
	peers, n, err := parseCluster(o.cluster, o.id, o.peer)
	if err != nil {
		return cfg, err
	}
	level := hclog.LevelFromString(o.logLevel)
	if level == hclog.NoLevel {
		return cfg, invalid("--log-level %q is not known; use debug, info, warn or error", o.logLevel)
	}
	cfg.Config = registry.Config{ID: o.id, DataDir: o.dataDir, Peers: peers, PeerListen: o.peer, Timing: o.timing,
		Logger: hclog.New(&hclog.LoggerOptions{Name: o.id, Level: level, JSONFormat: o.logJSON, Output: c.err})}
	if cfg.HTTPListen = o.http; o.http == "" {
		cfg.HTTPListen = fmt.Sprintf("127.0.0.1:%d", defaultHTTPPort+portStep*n)
	}
	switch cfg.RESPListen = o.resp; o.resp {
	case "":
		cfg.RESPListen = fmt.Sprintf("127.0.0.1:%d", defaultRESPPort+portStep*n)
	case noRESP:
		cfg.RESPListen = ""
	}
	cfg.Insecure, cfg.CertsRequired, cfg.Profile = o.insecure, o.requireCerts, o.pprof
	if cfg.Certs, err = c.serverCerts(o, cfg.Logger); err != nil {
		return cfg, err
	}
	cfg.Listening = func(http, resp string) error {
		if resp == "" {
			resp = noRESP
		}
		return c.printf("%s listening: http %s, resp %s\n", o.id, http, resp)
	}
	if err := cfg.Check(); err != nil {
		return cfg, invalid("%v", err)
	}
	_, err = checkListeners(cfg)
	return cfg, err
}

// serverCerts opens the server's certificate; nil if there is none, and it listens without TLS.
func (c *cli) serverCerts(o serveFlags, log hclog.Logger) (*certs.Source, error) {
	files := certs.Files{Cert: c.cert, Key: c.key, CA: c.cacert}
	if files.None() {
		if o.requireCerts {
			return nil, invalid("--require-client-certs needs TLS; give --cert, --key and --cacert")
		}
		return nil, nil
	}
	own, err := certs.Open(files, log)
	if err != nil {
		return nil, invalid("%v", err)
	}
	if who := own.Who(); who.Role != access.Server || who.ID != o.id {
		return nil, invalid("certificate %s is that of %s, and this is server %q; give the one of server/%s, or the right --id", c.cert, who, o.id, o.id)
	}
	return own, nil
}

// parseCluster reads --cluster and says how many servers stand before this one
// on its host. Without --cluster the server is a cluster of its own.
func parseCluster(list []string, id, peer string) (peers []registry.Peer, before int, err error) {
	if len(list) == 0 {
		if peer == "" {
			peer = fmt.Sprintf("127.0.0.1:%d", defaultPeerPort)
		}
		return []registry.Peer{{ID: id, Addr: peer}}, 0, nil
	}
	found := false
	onHost := map[string]int{}
	for _, item := range list {
		if item = strings.TrimSpace(item); item == "" {
			continue
		}
		name, addr, ok := strings.Cut(item, "=")
		if !ok || name == "" {
			return nil, 0, invalid("--cluster has %q, which is not id=host:port", item)
		}
		host, port, err := net.SplitHostPort(addr)
		if err != nil || host == "" || port == "" {
			return nil, 0, invalid("--cluster has %q, whose address is not host:port", item)
		}
		if name == id {
			found, before = true, onHost[host]
		}
		onHost[host]++
		peers = append(peers, registry.Peer{ID: name, Addr: addr})
	}
	if !found {
		return nil, 0, invalid("--id %s is not in --cluster %s; add it as %s=host:port", id, strings.Join(list, ","), id)
	}
	return peers, before, nil
}

// serve runs until ctx ends or the server must not go on.
func (c *cli) serve(ctx context.Context, cfg serverConfig) (err error) {
	var heap sync.WaitGroup
	collecting, end := context.WithCancel(context.WithoutCancel(ctx))
	heap.Go(func() { keepHeadroom(collecting) })
	defer heap.Wait()
	defer end()
	s, err := startServer(ctx, cfg)
	if err != nil {
		if ctx.Err() != nil {
			return nil // ended while it waited for the others
		}
		return err
	}
	fatal := false
	defer func() {
		if cerr := s.CloseWithin(fatal); err == nil && cerr != nil {
			err = &api.Error{Code: api.Internal, Detail: fmt.Sprintf("the server did not stop cleanly: %v", cerr)}
		}
	}()
	if err := s.waitReady(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		fatal = true
		return err
	}
	if err := c.printf("%s ready\n", cfg.ID); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case stop := <-s.reg.Fatal():
		fatal = true
		return fatalError(stop)
	case failed := <-s.failed:
		return &api.Error{Code: api.Internal, Detail: failed.Error()}
	}
}
