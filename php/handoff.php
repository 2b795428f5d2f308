<?php
/**
 * handoffd's client for PHP 7.4 and newer: this file, without dependencies.
 *
 *     Handoffd\Handoff::stream(['prompt' => $prompt, 'user_id' => $userId]);
 *
 * In: the payload (the question and what belongs to it: docs/PROTOCOL.md, section 2), and what the page has set by
 * header(), setcookie() and session_start(). Out: the response headers, or headers and body, by which Apache's
 * mod_socket_handoff passes the client's connection to handoffd.
 * Never: prints anything but the payload, sends half of a handoff, waits for the answer.
 */

declare(strict_types=1);

namespace Handoffd;

/** Whatever keeps a handoff from being sent: the message says what to change. Nothing has been sent then. */
abstract class HandoffException extends \RuntimeException {}

/** There is no question in the payload: an LLM would be paid for nothing. */
final class EmptyQuestionException extends HandoffException {}

/** A key of the payload has a value that handoffd would refuse. */
final class InvalidPayloadException extends HandoffException {}

/** The payload cannot be written as JSON: text that is not UTF-8, NAN, a resource, a loop of references. */
final class EncodingException extends HandoffException {}

/** The payload is longer than the way it was to go. */
final class PayloadTooLargeException extends HandoffException {}

/** An option is unknown or has an impossible value: a bad path of a socket, too. */
final class InvalidOptionException extends HandoffException {}

/** The page has printed something before: the response has begun. */
final class HeadersSentException extends HandoffException {}

/** An output buffer cannot be removed, and would change the payload. */
final class OutputBufferException extends HandoffException {}

/** There is nobody who could hand a client over: PHP runs on the command line, or Apache lacks the module. */
final class NoModuleException extends HandoffException {}

/**
 * One handoff. stream() is all that a page needs; prepare(), headers() and body() are for frameworks with a response
 * of their own, and for tests.
 */
final class Handoff
{
    /** Where handoffd listens, if neither the option "socket" nor the environment's HANDOFFD_SOCKET says otherwise. */
    public const DEFAULT_SOCKET = '/run/handoffd/handoffd.sock';
    /** Bytes of JSON that travel in a header if nobody says otherwise; php-fpm's and CGI's header lines end at 8 KB. */
    public const HEADER_BYTES = 4096;
    /** Bytes that may be forced into a header: CGI's lines end at 8,192, the kernel's messages at 212,960. */
    public const HEADER_BYTES_MAX = 8000;
    public const HEADER_BYTES_MAX_MOD_PHP = 200000;
    /** Bytes of a body at most, as mod_socket_handoff has it. */
    public const BODY_BYTES_MAX = 33554432;

    /** Response headers that handoffd sets itself and refuses from others. */
    private const FRAMING = ['content-type', 'content-length', 'transfer-encoding', 'content-encoding', 'connection',
        'cache-control', 'x-accel-buffering', 'x-request-id'];
    /** Headers of the page that mean nothing, or something wrong, on a stream; they are not forwarded. */
    private const NOT_FORWARDED = ['x-socket-handoff', 'x-handoff-data', 'x-handoff-body', 'x-powered-by', 'status',
        'location', 'etag', 'last-modified', 'expires', 'pragma', 'age', 'date', 'server', 'accept-ranges',
        'content-range', 'keep-alive', 'trailer', 'upgrade', 'te', 'x-sendfile'];
    /** Headers of the page that could have Apache answer something else than the handoff: they are removed. */
    private const REMOVED = ['Location', 'Status', 'Content-Length', 'Content-Encoding', 'Transfer-Encoding', 'ETag',
        'Last-Modified', 'Content-Range', 'X-Sendfile', 'X-Handoff-Data', 'X-Handoff-Body'];
    /** What HEAD need not bring along: nobody is asked. */
    private const QUESTION = ['prompt', 'messages', 'system', 'extra_body', 'images', 'langgraph_input'];
    /** handoffd's bounds for the sum of response_headers. */
    private const RESPONSE_HEADERS_MAX = 64;
    private const RESPONSE_HEADERS_BYTES_MAX = 16384;

    /** Arrays inside of arrays, in which text that is not UTF-8 is looked for. */
    private const LOOKED_AT_DEPTH = 12;

    private const OPTIONS = ['socket', 'via', 'invalid_utf8', 'forward_headers'];
    private const TOKEN = '/\A[\x21-\x7E]{1,128}\z/';
    /** RFC 9110's token: the name of a header. */
    private const NAME = "/\A[!#$%&'*+.^_`|~0-9A-Za-z-]+\z/";

    /** @var array<string, mixed> */
    private array $payload;
    private string $json;
    private bool $inBody;
    /** The value of X-Socket-Handoff. */
    private string $socket;

    /**
     * Sends the handoff and ends the script: the client's connection belongs to handoffd.
     *
     * The page has checked who asks, and has printed nothing. What was printed into output buffers is discarded. The
     * session is written and closed. Shutdown functions run, and what they print goes nowhere.
     *
     * @param array<string, mixed> $payload keys as in docs/PROTOCOL.md, section 2: "prompt" or "messages", "user_id",
     *     "model", "format", "response_headers" and so on. Missing ones of "request_id", "response_headers", "method",
     *     "last_event_id", "client_ip", "traceparent", "origin", "proto" are taken from the request and the page.
     * @param array<string, mixed> $options
     *     "socket": path, or list of paths that are tried in order;
     *     "via": "auto" (default), "header" (also the C module understands it), or "body";
     *     "invalid_utf8": "refuse" (default), or "substitute" (U+FFFD for bytes that are no UTF-8);
     *     "forward_headers": true (default): what the page has set by header() and setcookie() goes to the client.
     * @return never
     * @throws HandoffException one of those above; then nothing has been sent, and no buffer discarded
     */
    public static function stream(array $payload, array $options = []): void
    {
        self::prepare($payload, $options)->send();
        exit;
    }

    /**
     * Checks and encodes a handoff, and does nothing else: also on the command line.
     *
     * @param array<string, mixed> $payload as for stream()
     * @param array<string, mixed> $options as for stream()
     * @throws HandoffException
     */
    public static function prepare(array $payload, array $options = []): self
    {
        return new self($payload, $options);
    }

    private function __construct(array $payload, array $options)
    {
        foreach (array_keys($options) as $name) {
            if (!in_array($name, self::OPTIONS, true)) {
                throw new InvalidOptionException("option $name: unknown; there are " . implode(', ', self::OPTIONS));
            }
        }
        $via = self::oneOf($options, 'via', ['auto', 'header', 'body']);
        $utf8 = self::oneOf($options, 'invalid_utf8', ['refuse', 'substitute']);
        $forward = $options['forward_headers'] ?? true;
        if (!is_bool($forward)) {
            throw new InvalidOptionException('option forward_headers: must be true or false');
        }
        $this->socket = self::sockets($options['socket'] ?? null);
        $this->payload = self::completed($payload, $forward);
        $this->json = self::encode($this->payload, $utf8 === 'substitute');
        $this->inBody = self::goesInBody($this->json, $via);
    }

    /**
     * What is handed over, complete.
     *
     * @return array<string, mixed>
     */
    public function payload(): array
    {
        return $this->payload;
    }

    /** By this the answer is found in Apache's and handoffd's logs, and in the answer's X-Request-Id. */
    public function requestId(): string
    {
        return (string) $this->payload['request_id'];
    }

    /**
     * The headers of the response that mod_socket_handoff waits for; the status is 200.
     *
     * @return array<string, string> values by name
     */
    public function headers(): array
    {
        $headers = ['X-Socket-Handoff' => $this->socket, 'X-Request-Id' => $this->requestId()];
        if ($this->inBody) {
            return $headers + ['X-Handoff-Body' => '1', 'Content-Type' => 'application/json'];
        }
        return $headers + ['X-Handoff-Data' => $this->json];
    }

    /** The body of that response: JSON or nothing, and no byte besides. */
    public function body(): string
    {
        return $this->inBody ? $this->json : '';
    }

    /**
     * As stream(), but returns. Under php-fpm the answer begins now, with Apache's own PHP when the script ends. What
     * is printed afterwards goes nowhere.
     *
     * @throws HandoffException
     */
    public function send(): void
    {
        self::checkServer();
        if (headers_sent($file, $line)) {
            $where = $file === '' ? '' : " in $file, line $line";
            throw new HeadersSentException("the response has begun$where: a handoff must come before any output");
        }
        if ($this->inBody) {
            self::checkBuffers();
        }
        if (session_status() === PHP_SESSION_ACTIVE) {
            // Else this user's next request waits for the end of this one.
            session_write_close();
        }
        // After the handoff the connection looks aborted to Apache's own PHP, which ends the script at its next output.
        ignore_user_abort(true);
        self::discardOutput();
        foreach (self::REMOVED as $name) {
            header_remove($name);
        }
        http_response_code(200);
        foreach ($this->headers() as $name => $value) {
            header("$name: $value");
        }
        echo $this->body();
        // Swallows what shutdown functions and destructors print: it would be a part of the payload.
        ob_start(static function (): string {
            return '';
        });
        if (PHP_SAPI === 'fpm-fcgi' && function_exists('fastcgi_finish_request')) {
            fastcgi_finish_request();
        }
    }

    /** @param list<string> $allowed the first is the default */
    private static function oneOf(array $options, string $name, array $allowed): string
    {
        $value = $options[$name] ?? $allowed[0];
        if (!in_array($value, $allowed, true)) {
            throw new InvalidOptionException("option $name: must be one of " . implode(', ', $allowed));
        }
        return $value;
    }

    /** @param mixed $given */
    private static function sockets($given): string
    {
        $source = 'option socket';
        if ($given === null) {
            $given = getenv('HANDOFFD_SOCKET');
            $source = 'HANDOFFD_SOCKET';
            $given = is_string($given) && trim($given) !== '' ? explode(',', $given) : self::DEFAULT_SOCKET;
            $given = array_map('trim', (array) $given);
        }
        $paths = is_array($given) ? array_values($given) : [$given];
        if ($paths === []) {
            throw new InvalidOptionException("$source: must name a socket");
        }
        foreach ($paths as $path) {
            if (!is_string($path) || strlen($path) > 107 || !preg_match('#\A/[^\x00-\x1F\x7F,]+(?<! )\z#', $path)) {
                throw new InvalidOptionException("$source: must be an absolute path of at most 107 bytes without "
                    . 'commas, control characters and a space at its end, or a list of them');
            }
        }
        return implode(', ', $paths);
    }

    private static function completed(array $payload, bool $forward): array
    {
        if (!array_key_exists('method', $payload) && strcasecmp(self::server('REQUEST_METHOD'), 'HEAD') === 0) {
            $payload['method'] = 'HEAD';
        }
        $payload += self::ofTheRequest();
        self::checkQuestion($payload);
        $payload['request_id'] = self::requestIdOf($payload['request_id'] ?? null);
        $headers = self::responseHeaders($payload['response_headers'] ?? null, $forward ? headers_list() : []);
        unset($payload['response_headers']);
        if ($headers !== []) {
            $payload['response_headers'] = $headers;
        }
        if (is_array($payload['messages'] ?? null)) {
            // array_filter() leaves gaps, with which JSON would have an object.
            $payload['messages'] = array_values($payload['messages']);
        }
        if (($payload['method'] ?? null) === 'HEAD') {
            // PHP drops the body of an answer to HEAD, so that all must go in a header.
            $payload = array_diff_key($payload, array_flip(self::QUESTION));
        }
        return $payload;
    }

    /**
     * What the request says, as far as handoffd would accept it: it is often the browser's own, and no reason to
     * refuse a question.
     *
     * @return array<string, string>
     */
    private static function ofTheRequest(): array
    {
        $label = '/\A\P{Cc}{1,256}\z/u';
        $keys = ['last_event_id' => ['HTTP_LAST_EVENT_ID', '/\A\P{Cc}+\z/u'], 'client_ip' => ['REMOTE_ADDR', $label],
            'traceparent' => ['HTTP_TRACEPARENT', self::TOKEN], 'origin' => ['HTTP_ORIGIN', $label],
            'proto' => ['SERVER_PROTOCOL', $label]];
        $known = [];
        foreach ($keys as $key => [$name, $pattern]) {
            $value = self::server($name);
            if (strlen($value) <= 256 && preg_match($pattern, $value)) {
                $known[$key] = $value;
            }
        }
        return $known;
    }

    /** @param array<string, mixed> $payload */
    private static function checkQuestion(array $payload): void
    {
        foreach (['prompt', 'system'] as $key) {
            $text = $payload[$key] ?? null;
            if ($text !== null && !is_string($text) && !is_int($text) && !is_float($text)) {
                throw new InvalidPayloadException("$key: must be a string");
            }
        }
        $messages = $payload['messages'] ?? [];
        if (!is_object($messages) && (!is_array($messages) || array_filter(array_keys($messages), 'is_string'))) {
            throw new InvalidPayloadException('messages: must be a list of messages, each with role and content');
        }
        $isBlank = preg_match('/\A[\s\p{Z}]*\z/u', (string) ($payload['prompt'] ?? '')) === 1;
        // An array without entries is JSON's [], which handoffd takes for nothing.
        $has = static function (string $key) use ($payload): bool {
            return !in_array($payload[$key] ?? null, [null, '', []], true);
        };
        $lastSeen = is_string($payload['last_event_id'] ?? null) ? $payload['last_event_id'] : '';
        $needsNone = ($payload['method'] ?? null) === 'HEAD' || substr($lastSeen, -4) === ':end';
        if ($isBlank && !$has('messages') && !$has('langgraph_input') && !$has('payload_file') && !$needsNone) {
            throw new EmptyQuestionException('the question is empty: give prompt, or messages');
        }
    }

    /** @param mixed $given */
    private static function requestIdOf($given): string
    {
        if ($given === null || $given === '') {
            // mod_unique_id's also stands in Apache's error log.
            $unique = self::server('UNIQUE_ID');
            return preg_match(self::TOKEN, $unique) ? $unique : bin2hex(random_bytes(12));
        }
        if (!(is_string($given) || is_int($given)) || !preg_match(self::TOKEN, (string) $given)) {
            throw new InvalidPayloadException('request_id: must be 1 to 128 visible ASCII characters');
        }
        return (string) $given;
    }

    /**
     * The payload's response headers, and those of the page that it does not name. Cookies of both.
     *
     * @param mixed $given
     * @param list<string> $ofThePage lines
     * @return array<string, list<string>>
     */
    private static function responseHeaders($given, array $ofThePage): array
    {
        $given = is_object($given) ? get_object_vars($given) : $given ?? [];
        if (!is_array($given)) {
            throw new InvalidPayloadException('response_headers: must be an array of values by name');
        }
        [$headers, $named] = [[], []];
        foreach ($ofThePage as $line) {
            [$name, $value] = explode(':', $line, 2) + [1 => ''];
            $lower = strtolower($name);
            if (preg_match(self::NAME, $name)
                && !in_array($lower, array_merge(self::FRAMING, self::NOT_FORWARDED), true)) {
                $named[$lower] = $named[$lower] ?? $name;
                // A tab is legal here; handoffd wants none.
                $headers[$named[$lower]][] = trim(preg_replace('/[\x00-\x1F\x7F]+/', ' ', $value));
            }
        }
        foreach ($given as $name => $values) {
            $name = (string) $name;
            $lower = strtolower($name);
            $values = self::headerValues($name, $values);
            $earlier = $headers[$named[$lower] ?? ''] ?? [];
            unset($headers[$named[$lower] ?? '']);
            $values = $lower === 'set-cookie' ? array_merge($earlier, $values) : $values;
            if ($values !== []) {
                $headers[$name] = $values;
                $named[$lower] = $name;
            }
        }
        self::checkSize($headers);
        return $headers;
    }

    /** @return list<string> */
    private static function headerValues(string $name, $values): array
    {
        if (!preg_match(self::NAME, $name)) {
            throw new InvalidPayloadException('response_headers: must be an array of values by name of a header');
        }
        if (in_array(strtolower($name), self::FRAMING, true)) {
            throw new InvalidPayloadException("response_headers.$name: handoffd sets it"
                . (strtolower($name) === 'x-request-id' ? ': give request_id' : ''));
        }
        $lines = [];
        foreach (is_array($values) ? $values : [$values] as $value) {
            if ($value === null) {
                continue;
            }
            $value = is_bool($value) ? ($value ? 'true' : 'false') : $value;
            if (!is_scalar($value) || preg_match('/[\x00-\x1F\x7F]/', (string) $value)) {
                throw new InvalidPayloadException("response_headers.$name: must be text without control characters, "
                    . 'or a list of such texts');
            }
            $lines[] = (string) $value;
        }
        return $lines;
    }

    /** @param array<string, list<string>> $headers */
    private static function checkSize(array $headers): void
    {
        [$lines, $bytes] = [0, 0];
        foreach ($headers as $name => $values) {
            $lines += count($values);
            $bytes += strlen(implode('', $values)) + count($values) * (strlen((string) $name) + 4);
        }
        if ($lines > self::RESPONSE_HEADERS_MAX || $bytes > self::RESPONSE_HEADERS_BYTES_MAX) {
            throw new InvalidPayloadException("response_headers: $lines headers of $bytes bytes, the page's own among "
                . 'them; at most ' . self::RESPONSE_HEADERS_MAX . ' of ' . self::RESPONSE_HEADERS_BYTES_MAX);
        }
    }

    /** @param array<string, mixed> $payload */
    private static function encode(array $payload, bool $substitute): string
    {
        $flags = JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_PRESERVE_ZERO_FRACTION | JSON_THROW_ON_ERROR;
        try {
            return json_encode($payload, $flags | ($substitute ? JSON_INVALID_UTF8_SUBSTITUTE : 0));
        } catch (\JsonException $e) {
            $where = $e->getCode() === JSON_ERROR_UTF8 ? self::firstInvalid($payload, '') : null;
            throw new EncodingException(($where ?? 'the payload') . ": {$e->getMessage()}", 0, $e);
        }
    }

    /** Where text is that is not UTF-8, in arrays; not deep down, for references may lead around in circles. */
    private static function firstInvalid(array $values, string $path, int $depth = 0): ?string
    {
        foreach ($values as $key => $value) {
            if (!preg_match('//u', (string) $key)) {
                return ($path === '' ? 'the payload' : $path) . ': a key';
            }
            $here = $path === '' ? (string) $key : "$path.$key";
            if (is_string($value) && !preg_match('//u', $value)) {
                return $here;
            }
            $isNear = is_array($value) && $depth < self::LOOKED_AT_DEPTH;
            $found = $isNear ? self::firstInvalid($value, $here, $depth + 1) : null;
            if ($found !== null) {
                return $found;
            }
        }
        return null;
    }

    private static function goesInBody(string $json, string $via): bool
    {
        $bytes = strlen($json);
        // PHP drops the body of an answer to HEAD.
        $isHead = strcasecmp(self::server('REQUEST_METHOD'), 'HEAD') === 0;
        // JSON escapes all control characters but this one, which has no place in a header.
        $isSmall = $bytes <= self::HEADER_BYTES && strpos($json, "\x7F") === false;
        $isHeader = $isHead || $via === 'header' || ($via === 'auto' && $isSmall);
        $maxOfHeader = PHP_SAPI === 'apache2handler' ? self::HEADER_BYTES_MAX_MOD_PHP : self::HEADER_BYTES_MAX;
        $max = $isHeader ? $maxOfHeader : self::BODY_BYTES_MAX;
        if ($bytes > $max) {
            $what = $isHeader ? 'a header' : 'a body';
            throw new PayloadTooLargeException("the payload has $bytes bytes of JSON; $what carries at most $max");
        }
        return !$isHeader;
    }

    private static function checkServer(): void
    {
        if (PHP_SAPI === 'cli' || PHP_SAPI === 'phpdbg') {
            throw new NoModuleException('the command line has no client to hand over: run this page in Apache, '
                . 'or use Handoff::prepare(), or handoffctl stream');
        }
        // Else the browser would be sent what is meant for handoffd. Of php-fpm's Apache nothing is known here.
        if (PHP_SAPI === 'apache2handler' && function_exists('apache_get_modules')
            && strpos(implode(' ', apache_get_modules()), 'socket_handoff') === false) {
            throw new NoModuleException('Apache has not loaded mod_socket_handoff');
        }
    }

    /** Whoever would change what is printed next (zlib, a template engine) can be removed. */
    private static function checkBuffers(): void
    {
        foreach (ob_get_status(true) as $buffer) {
            if (($buffer['flags'] & PHP_OUTPUT_HANDLER_REMOVABLE) === 0) {
                throw new OutputBufferException("the output buffer of {$buffer['name']} cannot be removed: end it "
                    . 'before, or use the option via: "header"');
            }
        }
    }

    /** What the page has printed by mistake: a byte order mark, a warning. */
    private static function discardOutput(): void
    {
        while (ob_get_level() > 0 && @ob_end_clean()) {
            // Each turn removes one.
        }
    }

    private static function server(string $name): string
    {
        $value = $_SERVER[$name] ?? '';
        return is_string($value) ? $value : '';
    }
}
