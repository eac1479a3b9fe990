package otlp

import (
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// settings are what the environment says.
type settings struct {
	metrics, traces               string // URLs; "": not to be sent
	metricsHeaders, tracesHeaders map[string]string
	every, timeout                time.Duration
	resource                      map[string]any
}

// fromEnvironment reads the variables of OpenTelemetry's specification that apply.
func fromEnvironment(service, version string, getenv func(string) string) (s settings, err error) {
	const exporter = "OTEL_EXPORTER_OTLP_"
	if strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true") {
		return s, nil
	}
	base := getenv(exporter + "ENDPOINT")
	common, err := pairs(getenv, exporter+"HEADERS")
	if err != nil {
		return s, err
	}
	for _, k := range []struct {
		kind, path string
		to         *string
		header     *map[string]string
	}{{"METRICS", "v1/metrics", &s.metrics, &s.metricsHeaders}, {"TRACES", "v1/traces", &s.traces, &s.tracesHeaders}} {
		switch which := getenv("OTEL_" + k.kind + "_EXPORTER"); which {
		case "", "otlp":
		case "none":
			continue
		default:
			return s, fmt.Errorf("OTEL_%s_EXPORTER=%s: want otlp or none", k.kind, which)
		}
		name, at := exporter+k.kind+"_ENDPOINT", getenv(exporter+k.kind+"_ENDPOINT")
		if at == "" && base != "" {
			name, at = exporter+"ENDPOINT", strings.TrimSuffix(base, "/")+"/"+k.path
		}
		if at == "" {
			continue
		}
		u, err := url.Parse(at)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return s, fmt.Errorf("%s is not a URL: give it like http://127.0.0.1:4318", name)
		}
		for _, v := range []string{exporter + k.kind + "_PROTOCOL", exporter + "PROTOCOL"} {
			if p := getenv(v); p == "http/protobuf" {
				break
			} else if p != "" {
				return s, fmt.Errorf("%s=%s: only http/protobuf is spoken here (a collector has it at port 4318)", v, p)
			}
		}
		own, err := pairs(getenv, exporter+k.kind+"_HEADERS")
		if err != nil {
			return s, err
		}
		*k.to, *k.header = at, maps.Clone(common)
		maps.Copy(*k.header, own)
	}
	if s.every, err = milliseconds(getenv, "OTEL_METRIC_EXPORT_INTERVAL", time.Minute); err != nil {
		return s, err
	}
	if s.timeout, err = milliseconds(getenv, exporter+"TIMEOUT", 10*time.Second); err != nil {
		return s, err
	}
	more, err := pairs(getenv, "OTEL_RESOURCE_ATTRIBUTES")
	s.resource = map[string]any{"service.name": service, "service.version": version}
	for k, v := range more {
		s.resource[k] = v
	}
	if name := getenv("OTEL_SERVICE_NAME"); name != "" {
		s.resource["service.name"] = name
	}
	return s, err
}

// pairs reads a variable of the form key=value,key=value, whose values may be percent-encoded.
// Errors do not show the values: they may be secrets.
func pairs(getenv func(string) string, name string) (map[string]string, error) {
	all := map[string]string{}
	for p := range strings.SplitSeq(getenv(name), ",") {
		if p = strings.TrimSpace(p); p == "" {
			continue
		}
		k, v, ok := strings.Cut(p, "=")
		k = strings.TrimSpace(k)
		v, err := url.PathUnescape(strings.TrimSpace(v))
		if !ok || err != nil || k == "" || strings.ContainsAny(k+v, "\r\n") {
			return nil, fmt.Errorf("%s is malformed: give it like key=value,key=value", name)
		}
		all[k] = v
	}
	return all, nil
}

func milliseconds(getenv func(string) string, name string, def time.Duration) (time.Duration, error) {
	s := getenv(name)
	if s == "" {
		return def, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > 24*3600*1000 {
		return 0, fmt.Errorf("%s=%.20s: want milliseconds", name, s)
	}
	return time.Duration(n) * time.Millisecond, nil
}
