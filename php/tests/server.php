<?php
/**
 * PHP's built-in server with page.php, and a client that takes an answer apart byte by byte.
 */

declare(strict_types=1);

final class Server
{
    /** @var resource */
    private $process;
    private int $port;
    private string $log;

    /** @param array<string, string> $ini */
    public function __construct(array $ini = [])
    {
        $this->log = (string) tempnam(sys_get_temp_dir(), 'handoff');
        $settings = '';
        foreach ($ini + ['output_buffering' => '0', 'log_errors' => '1', 'html_errors' => '0'] as $name => $value) {
            $settings .= ' -d ' . escapeshellarg("$name=$value");
        }
        $php = escapeshellarg(getenv('PHP') ?: PHP_BINARY);
        for ($attempt = 0; $attempt < 5; $attempt++) {
            $this->port = self::freePort();
            $command = "exec $php$settings -S 127.0.0.1:{$this->port} " . escapeshellarg(__DIR__ . '/page.php');
            $log = ['file', $this->log, 'a'];
            $process = proc_open($command, [['file', '/dev/null', 'r'], $log, $log], $pipes);
            if (is_resource($process) && $this->isUp($process)) {
                $this->process = $process;
                return;
            }
        }
        throw new RuntimeException("the server does not start: {$this->log()}");
    }

    public function __destruct()
    {
        if (is_resource($this->process)) {
            proc_terminate($this->process, 9);
            proc_close($this->process);
        }
        @unlink($this->log);
    }

    public function log(): string
    {
        return (string) file_get_contents($this->log);
    }

    /** Waits until the server's log has this. */
    public function logs(string $text): bool
    {
        for ($deadline = microtime(true) + 10; microtime(true) < $deadline; usleep(5000)) {
            if (strpos($this->log(), $text) !== false) {
                return true;
            }
        }
        return false;
    }

    /**
     * @param list<string> $lines of the request's head
     */
    public function ask(string $path, array $lines = [], string $method = 'GET', string $body = ''): Answer
    {
        $socket = stream_socket_client("tcp://127.0.0.1:{$this->port}", $code, $message, 5.0);
        if ($socket === false) {
            throw new RuntimeException($message);
        }
        stream_set_timeout($socket, 10);
        $lines[] = 'Content-Length: ' . strlen($body);
        fwrite($socket, "$method $path HTTP/1.1\r\nHost: site\r\n" . implode("\r\n", $lines) . "\r\n\r\n$body");
        return new Answer((string) stream_get_contents($socket));
    }

    /** @param resource $process */
    private function isUp($process): bool
    {
        for ($deadline = microtime(true) + 10; microtime(true) < $deadline; usleep(5000)) {
            if (!proc_get_status($process)['running']) {
                return false;
            }
            $socket = @stream_socket_client("tcp://127.0.0.1:{$this->port}", $code, $message, 1.0);
            if ($socket !== false) {
                return true;
            }
        }
        return false;
    }

    private static function freePort(): int
    {
        $socket = stream_socket_server('tcp://127.0.0.1:0');
        $name = (string) stream_socket_get_name($socket, false);
        return (int) substr($name, (int) strrpos($name, ':') + 1);
    }
}

final class Answer
{
    public int $status;
    /** @var array<string, list<string>> values by lower-case name */
    public array $headers = [];
    public string $body;

    public function __construct(string $bytes)
    {
        [$head, $this->body] = explode("\r\n\r\n", $bytes, 2) + [1 => ''];
        $lines = explode("\r\n", $head);
        $this->status = (int) substr($lines[0], 9, 3);
        foreach (array_slice($lines, 1) as $line) {
            [$name, $value] = explode(': ', $line, 2) + [1 => ''];
            $this->headers[strtolower($name)][] = $value;
        }
    }

    public function header(string $name): ?string
    {
        $values = $this->headers[$name] ?? null;
        return $values === null ? null : implode(' | ', $values);
    }

    /**
     * The payload, as mod_socket_handoff finds it.
     *
     * @return array<string, mixed>
     */
    public function payload(): array
    {
        $isBody = $this->header('x-handoff-body') === '1';
        same(200, $this->status, $this->body);
        same(!$isBody, $this->header('x-handoff-data') !== null, "either a header or the body: {$this->body}");
        if (!$isBody) {
            same('', $this->body, 'a body beside the header');
        }
        $json = $isBody ? $this->body : $this->header('x-handoff-data');
        return json_decode((string) $json, true, 512, JSON_THROW_ON_ERROR);
    }
}
