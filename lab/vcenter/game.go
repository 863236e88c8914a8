package main

import (
	"encoding/json"
	"fmt"
	"html"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const tick = 100 * time.Millisecond

// clock counts the world's ticks. It stands still while the VM is frozen, and a fork's goes on where its parent's stood.
type clock struct {
	mutex   sync.Mutex
	elapsed time.Duration
	since   time.Time
}

func newClock() *clock { return &clock{since: time.Now()} }

func (c *clock) read() time.Duration {
	if c.since.IsZero() {
		return c.elapsed
	}
	return c.elapsed + time.Since(c.since)
}

func (c *clock) ticks() int64 {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return int64(c.read() / tick)
}

func (c *clock) pause() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.elapsed, c.since = c.read(), time.Time{}
}

func (c *clock) resume() {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.since.IsZero() {
		c.since = time.Now()
	}
}

func (c *clock) fork() *clock {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return &clock{elapsed: c.read()}
}

// game answers as guest/game/server.js does: the same paths, the same fields, the same counters.
type game struct {
	identity *identity
	port     int
	ticks    *clock
	served   atomic.Int64
	requests sync.Map
	sick     bool

	mutex  sync.Mutex
	server *http.Server
}

func newGame(who *identity, port int, ticks *clock) *game {
	return &game{identity: who, port: port, ticks: ticks}
}

func (g *game) address() string {
	return net.JoinHostPort(hostPart(g.identity.Address), strconv.Itoa(g.port))
}

// listen at the guest's own address only: until its NIC is connected a connection is refused, as of a real one.
func (g *game) listen() error {
	listener, err := net.Listen("tcp", g.address())
	if err != nil {
		return err
	}
	server := &http.Server{Handler: g, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 75 * time.Second}
	g.mutex.Lock()
	g.server = server
	g.mutex.Unlock()
	go func() { _ = server.Serve(listener) }()
	return nil
}

func (g *game) isUp() bool {
	g.mutex.Lock()
	defer g.mutex.Unlock()
	return g.server != nil
}

// unplug cuts every connection and takes no new one.
func (g *game) unplug() {
	g.mutex.Lock()
	server := g.server
	g.server = nil
	g.mutex.Unlock()
	if server != nil {
		_ = server.Close()
	}
}

func (g *game) close() { g.unplug() }

// proves says whether the game does what its health check asks for, as seen through its own socket.
func (g *game) proves() bool {
	client := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get("http://" + g.address() + "/healthz")
	if err != nil {
		return false
	}
	defer answer.Body.Close()
	return answer.StatusCode == http.StatusOK
}

// ServeHTTP is one player's request.
func (g *game) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	code := http.StatusOK
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/":
		g.index(w, r)
	case r.Method == http.MethodGet && r.URL.Path == "/healthz":
		status := "ok"
		if g.sick {
			code, status = http.StatusServiceUnavailable, "sick"
		}
		writeJSON(w, code, map[string]any{"status": status, "child": g.identity.Name, "fork_id": g.identity.ForkID})
	case r.Method == http.MethodGet && r.URL.Path == "/metrics":
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprint(w, g.metrics())
	default:
		code = http.StatusNotFound
		writeJSON(w, code, map[string]any{"error": "there is /, /healthz and /metrics"})
	}
	g.count(r.URL.Path, code)
}

func (g *game) index(w http.ResponseWriter, r *http.Request) {
	served := g.served.Add(1)
	seen := map[string]any{
		"child": g.identity.Name, "fork_id": g.identity.ForkID, "served": served, "ticks": g.ticks.ticks(), "sessions": 0,
		"world": map[string]any{"width": 32, "height": 12, "coin": map[string]int{"x": 16, "y": 6}, "players": []string{}},
	}
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		writeJSON(w, http.StatusOK, seen)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	name := html.EscapeString(g.identity.Name)
	fmt.Fprintf(w, "<!doctype html><title>%s</title><h1>%s</h1><p>%d answers from this child</p>\n", name, name, served)
}

func (g *game) count(path string, code int) {
	if path != "/" && path != "/healthz" && path != "/metrics" {
		path = "other"
	}
	made, _ := g.requests.LoadOrStore(fmt.Sprintf("path=%q,code=\"%d\"", path, code), new(atomic.Int64))
	made.(*atomic.Int64).Add(1)
}

func (g *game) metrics() string {
	var text strings.Builder
	text.WriteString("# TYPE game_requests_total counter\n")
	g.requests.Range(func(key, count any) bool {
		fmt.Fprintf(&text, "game_requests_total{%s} %d\n", key, count.(*atomic.Int64).Load())
		return true
	})
	fmt.Fprintf(&text, "# TYPE game_served_total counter\ngame_served_total %d\n", g.served.Load())
	fmt.Fprintf(&text, "# TYPE game_ticks counter\ngame_ticks %d\n", g.ticks.ticks())
	fmt.Fprintf(&text, "# TYPE game_info gauge\ngame_info{child=%q,fork_id=%q} 1\n", g.identity.Name, g.identity.ForkID)
	return text.String()
}

func writeJSON(w http.ResponseWriter, code int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(value)
}
