<?php
/**
 * The pages that run.php asks for, each by its path. What a page's handoff is refused with goes out as text.
 */

declare(strict_types=1);

use Handoffd\Handoff;
use Handoffd\HandoffException;

error_reporting(E_ALL);
ini_set('display_errors', '1');
require __DIR__ . '/../handoff.php';

final class PrintsWhenItDies
{
    public function __destruct()
    {
        echo 'printed by a destructor';
    }
}

function page(string $path): void
{
    $hi = ['prompt' => 'hi', 'request_id' => 'r1'];
    $large = ['prompt' => str_repeat('ü', 5000), 'request_id' => 'r1'];
    switch ($path) {
        case '/plain':
            Handoff::stream($hi);
        case '/given':
            // What the asker wants, by POST: "payload" and "options".
            $asked = json_decode((string) file_get_contents('php://input'), true);
            Handoff::stream($asked['payload'], $asked['options']);
        case '/large':
            Handoff::stream($large);
        case '/last-byte':
            Handoff::stream(['prompt' => "a\x7Fb", 'request_id' => 'r1']);
        case '/noisy':
            echo "\u{FEFF}stray output ";
            ob_start(static function (string $text): string {
                return strtoupper($text);
            });
            echo 'more of it';
            $GLOBALS['dies'] = new PrintsWhenItDies();
            register_shutdown_function(static function (): void {
                echo 'printed at shutdown';
                trigger_error('a warning at shutdown', E_USER_WARNING);
                error_log('SHUTDOWN RAN');
            });
            Handoff::stream(isset($_GET['small']) ? $hi : $large);
        case '/sent':
            echo 'too early';
            flush();
            Handoff::stream($hi);
        case '/stubborn':
            ob_start(null, 0, PHP_OUTPUT_HANDLER_CLEANABLE);
            Handoff::stream($large);
        case '/headers':
            setcookie('theme', 'dark', 0, '/');
            setcookie('lang', 'de');
            header('Access-Control-Allow-Origin: https://example.org');
            header("Content-Security-Policy: default-src 'self';\timg-src *");
            header('Vary: Origin');
            foreach (['Content-Type: text/event-stream', 'Cache-Control: no-cache', 'X-Accel-Buffering: no',
                'Content-Length: 3', 'ETag: "x"', 'Last-Modified: Sat, 01 Jan 2000 00:00:00 GMT',
                'X-Handoff-Data: stale', 'X-Handoff-Body: 1', 'Location: /elsewhere'] as $line) {
                header($line);
            }
            Handoff::stream($hi + ['response_headers' => ['vary' => 'Cookie', 'X-Number' => 7, 'X-None' => null,
                'set-cookie' => ['a=1', 'b=2']]], ['forward_headers' => !isset($_GET['alone'])]);
        case '/session':
            session_save_path(sys_get_temp_dir());
            session_start();
            $_SESSION['asked'] = ($_SESSION['asked'] ?? 0) + 1;
            register_shutdown_function(static function (): void {
                error_log('SESSION ' . (session_status() === PHP_SESSION_NONE ? 'closed' : 'open'));
            });
            Handoff::stream(['prompt' => "question {$_SESSION['asked']} of {$_GET['who']}"]);
        case '/busy':
            register_shutdown_function(static function (): void {
                for ($turn = 0; $turn < 2000 && !file_exists(sys_get_temp_dir() . '/go'); $turn++) {
                    usleep(5000);
                    clearstatcache();
                }
                error_log('NO LONGER BUSY');
            });
            Handoff::stream($hi);
        case '/returns':
            Handoff::prepare($hi)->send();
            echo 'printed after send()';
            error_log('SEND RETURNED');
            return;
        default:
            http_response_code(404);
    }
}

try {
    page('/' . basename((string) parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH)));
} catch (HandoffException $e) {
    if (!headers_sent()) {
        header_remove();
        http_response_code(500);
    }
    echo get_class($e), ': ', $e->getMessage();
}
