"""nginx as the limit of what a proxy can cost: found on this machine, and configured for one process that relays and does no more.

Everything that it writes lies in the folder it is given, so it needs no root and leaves nothing behind.
"""

import shutil
from pathlib import Path

_PLACES = (
    "/usr/sbin/nginx",
    str(Path(__file__).resolve().parents[1] / ".tools/nginx/usr/sbin/nginx"),
)  # the latter is of `make bench`
MISSING = "nginx is missing, and its column with it: `make bench` fetches it on Debian; elsewhere install it (apt-get install nginx-light)"

# One process: no master, so that its CPU time and memory are the worker's alone. Bodies are read whole before the upstream is asked,
# as Tollhouse does, and in memory; answers are handed on as they come. Kept connections are never closed for their age.
_CONFIG = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  server_tokens off;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  client_max_body_size 16m;
  client_body_buffer_size 2m;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream model {{
    server 127.0.0.1:{upstream_port};
    keepalive 2048;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://model;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_request_buffering on;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""


def found() -> str | None:
    """The path of the program, None where it is not installed."""
    return shutil.which("nginx") or next((place for place in _PLACES if Path(place).exists()), None)


def command(program: str, *, port: int, upstream_port: int, folder: Path) -> list[str]:
    """Writes the configuration into the folder. Returns what to start; it stays in the foreground."""
    config = folder / "nginx.conf"
    config.write_text(_CONFIG.format(folder=folder, port=port, upstream_port=upstream_port))
    return [program, "-p", str(folder), "-c", str(config), "-e", "stderr"]
